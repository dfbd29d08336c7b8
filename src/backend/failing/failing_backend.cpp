#include "backend/failing/failing_backend.h"

#include <utility>

#include <fmt/format.h>

#include "backend/forwarding.h"
#include "fastgen/error.h"

namespace fastgen {

namespace {

class FailingBackend final : public ForwardingBackend {
 public:
  FailingBackend(std::unique_ptr<Backend> inner, std::int64_t num_steps)
      : ForwardingBackend(std::move(inner)), num_good_(num_steps) {}

  std::string name() const override { return fmt::format("fail-after:{}:{}", num_good_, inner().name()); }
  void begin_capture() override {
    is_capturing_ = true;
    inner().begin_capture();
  }
  GraphId end_capture() override {
    is_capturing_ = false;
    return inner().end_capture();
  }
  // A step is a replay or has one embed.
  void replay(GraphId graph) override {
    count_step();
    inner().replay(graph);
  }
  void embed(Stream stream, const EmbedArgs& args) override {
    if (!is_capturing_) count_step();
    inner().embed(stream, args);
  }

 private:
  void count_step() {
    if (++num_steps_ > num_good_) throw Error(fmt::format("the device fell off the bus in step {}, as --backend asks", num_steps_));
  }

  const std::int64_t num_good_;
  std::int64_t num_steps_ = 0;
  bool is_capturing_ = false;
};

}  // namespace

std::unique_ptr<Backend> make_failing_backend(std::unique_ptr<Backend> inner, std::int64_t num_steps) {
  return std::make_unique<FailingBackend>(std::move(inner), num_steps);
}

}  // namespace fastgen
