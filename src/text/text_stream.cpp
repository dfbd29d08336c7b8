#include <utility>

#include "base/check.h"
#include "text/stop_matcher.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

namespace fastgen {

struct TextStream::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  Options options;
  Detokenizer detokenizer;
  StopMatcher matcher;
  std::string pending;  // certain text that might begin a stop string
  std::optional<std::size_t> stop_idx;
  bool finished = false;

  Impl(std::shared_ptr<const Tokenizer> t, Options o)
      : tokenizer(std::move(t)),
        options(with_valid_stops(std::move(o))),
        detokenizer(tokenizer->impl().decoder),
        matcher(options.stop) {}

  // The text is valid UTF-8, so a stop string that is not could only match, and cut, within a character.
  static Options with_valid_stops(Options options) {
    for (std::string& stop : options.stop) stop = to_valid_utf8(stop);
    return options;
  }

  // Takes text that is certain, gives back what no stop string can reach any more.
  std::string pass(std::string_view text) {
    auto match = matcher.read(text);
    pending += match ? text.substr(0, match->end) : text;
    if (!match) return take(pending.size() - matcher.num_open_bytes());
    stop_idx = match->stop_idx;
    std::size_t cut = options.include_stop ? 0 : options.stop[*stop_idx].size();
    std::string rest = take(pending.size() - cut);
    pending.clear();
    return rest;
  }

  std::string take(std::size_t bytes) {
    std::string piece = pending.substr(0, bytes);
    pending.erase(0, bytes);
    return piece;
  }
};

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, Options options)
    : impl_(std::make_unique<Impl>(std::move(tokenizer), std::move(options))) {}
TextStream::~TextStream() = default;
TextStream::TextStream(TextStream&&) noexcept = default;
TextStream& TextStream::operator=(TextStream&&) noexcept = default;

std::string TextStream::push(TokenId id) {
  FG_CHECK(!impl_->finished, id);
  const Tokenizer::Impl& tokenizer = impl_->tokenizer->impl();
  if (impl_->stop_idx || !tokenizer.names.has(id)) return {};
  if (impl_->options.skip_special && tokenizer.special[id]) return {};
  std::string text;
  impl_->detokenizer.push(tokenizer.names.at(id), text);
  return impl_->pass(text);
}

std::string TextStream::finish() {
  FG_CHECK(!impl_->finished, impl_->pending);
  impl_->finished = true;
  if (impl_->stop_idx) return {};
  std::string text;
  impl_->detokenizer.finish(text);
  std::string piece = impl_->pass(text);
  return piece + std::exchange(impl_->pending, {});
}

std::optional<std::size_t> TextStream::stop_idx() const { return impl_->stop_idx; }

}  // namespace fastgen
