// A program outside the tree: one request, its tokens printed. See embed_test.
#include <cstdio>

#include <fastgen/engine.h>
#include <fastgen/text.h>

int main(int argc, char** argv) {
  fastgen::EngineConfig config;
  config.model = argc > 1 ? argv[1] : "";
  config.dummy_weights = true;
  config.kv_gb = 0.01;
  const auto engine = fastgen::Engine::create(config);
  fastgen::Request request;
  request.prompt = {1, 2, 3};
  request.sampling.ignore_eos = true;
  engine->submit(std::move(*engine->try_admit()), request);
  int num_tokens = 0;
  for (fastgen::Event event; event.kind != fastgen::EventKind::kFinish;) {
    if (!engine->ring(0).wait(10'000)) return 1;
    while (engine->ring(0).pop(event)) num_tokens += event.kind == fastgen::EventKind::kToken;
  }
  std::printf("%d tokens from %s\n", num_tokens, engine->info().device.c_str());
  return num_tokens == request.sampling.max_tokens ? 0 : 1;
}
