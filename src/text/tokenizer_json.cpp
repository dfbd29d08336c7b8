// tokenizer.json, the format of Hugging Face `tokenizers`, as far as BPE models use it.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "fastgen/error.h"
#include "text/json_part.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

constexpr std::int64_t kMaxId =
    1 << 22;  // far over any vocabulary; bounds what a bad file can make us allocate

// Strings by id, gaps without data(); the views point into the document.
using Names = std::vector<std::string_view>;

void set_name(Names& names, std::int64_t id, std::string_view name, const JsonPart& where) {
  if (id < 0 || id >= kMaxId) where.fail(fmt::format("id {} of token {} is out of range", id, name));
  if (static_cast<std::size_t>(id) >= names.size()) names.resize(id + 1);
  if (names[id].data()) where.fail(fmt::format("tokens {} and {} share id {}", names[id], name, id));
  names[id] = name;
}

Names read_vocab(const JsonPart& model) {
  Names names;
  JsonPart vocab = model.at("vocab");
  vocab.for_each_field([&](std::string_view name, simdjson::dom::element value) {
    std::int64_t id = 0;
    if (value.get(id)) vocab.fail(fmt::format("id of token {} must be an integer", name));
    set_name(names, id, name, vocab);
  });
  if (names.empty()) vocab.fail("is empty");
  return names;
}

std::vector<AddedToken> read_added_tokens(const JsonPart& root, const StringTable& model_names,
                                          Names& names) {
  std::vector<AddedToken> tokens;
  auto list = root.find("added_tokens");
  if (!list) return tokens;
  for (const JsonPart& part : list->items()) {
    std::string_view content = part.at("content").string();
    if (content.empty()) continue;
    std::optional<TokenId> known = model_names.find(content);
    std::int64_t id = known ? *known : part.at("id").integer();
    bool repeated = std::ranges::any_of(tokens, [&](const AddedToken& t) { return t.content == content; });
    if (!known && !repeated) set_name(names, id, content, part);
    std::erase_if(tokens, [&](const AddedToken& t) { return t.content == content; });  // the last one counts
    AddedToken token{
        .id = static_cast<TokenId>(id), .content = std::string(content), .match = std::string(content)};
    token.special = part.boolean_or("special", false);
    token.normalized = part.boolean_or("normalized", !token.special);
    token.single_word = part.boolean_or("single_word", false);
    token.lstrip = part.boolean_or("lstrip", false);
    token.rstrip = part.boolean_or("rstrip", false);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> merge_names(simdjson::dom::element item,
                                                          const JsonPart& merges) {
  std::string_view line, left, right;
  if (!item.get(line)) {
    std::size_t space = line.find(' ');
    if (space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos) {
      return {line.substr(0, space), line.substr(space + 1)};
    }
  } else if (simdjson::dom::array pair; !item.get(pair) && pair.size() == 2) {
    if (!pair.at(0).get(left) && !pair.at(1).get(right)) return {left, right};
  }
  merges.fail("must hold pairs: \"a b\" or [\"a\", \"b\"]");
}

// `makeable`: by id, whether a merge may make the token.
std::vector<BpeConfig::Merge> read_merges(const JsonPart& model, const StringTable& names,
                                          const Names& makeable) {
  std::vector<BpeConfig::Merge> merges;
  JsonPart list = model.at("merges");
  std::string joined;
  auto id_of = [&](std::string_view name) {
    auto id = names.find(name);
    if (!id) list.fail(fmt::format("token {} is not in the vocabulary", name));
    return *id;
  };
  list.for_each_item([&](simdjson::dom::element item) {
    auto [left, right] = merge_names(item, list);
    joined.assign(left).append(right);
    TokenId merged = id_of(joined);
    // A merge that is left out keeps its rank's place, which no other merge needs.
    if (makeable[merged].data()) merges.push_back({id_of(left), id_of(right), merged});
  });
  return merges;
}

void refuse_unsupported_model(const JsonPart& model) {
  std::string_view type = model.string_or("type", "BPE");
  if (type != "BPE") model.fail(fmt::format("type {} is not supported (BPE is)", type));
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string_or(field, "").empty()) model.fail(fmt::format("{} is not supported", field));
  }
  if (model.find("dropout")) model.fail("dropout is not supported");
}

// The text that each token stands for in a word, for those that encoding ordinary text may make. Control
// tokens are not among them: their text gives the token only where AddedTokenFinder finds it.
Names make_keys(const Names& model_names, const std::vector<AddedToken>& added, bool byte_level,
                TextArena& arena) {
  Names keys = model_names;
  for (const AddedToken& token : added) {
    bool always_found = !token.single_word && (token.special || !token.normalized);
    if (token.is_control() && always_found && static_cast<std::size_t>(token.id) < keys.size())
      keys[token.id] = {};
  }
  if (!byte_level) return keys;
  std::size_t num_bytes = 0;
  for (std::string_view key : keys) num_bytes += key.size();
  std::string& bytes = arena.emplace_back();
  bytes.reserve(num_bytes);  // the bytes are never longer than their names, so nothing moves
  for (std::string_view& key : keys) {
    std::size_t begin = bytes.size();
    if (key.data() == nullptr) continue;
    key = append_name_bytes(bytes, key) ? std::string_view(bytes).substr(begin) : std::string_view();
  }
  return keys;
}

BpeConfig read_bpe(const JsonPart& model, const StringTable& names, Names keys, bool byte_level) {
  BpeConfig config;
  config.keys = std::move(keys);
  config.byte_level = byte_level;
  config.merges = read_merges(model, names, config.keys);
  config.byte_fallback = model.boolean_or("byte_fallback", false);
  config.fuse_unk = model.boolean_or("fuse_unk", false);
  config.ignore_merges = model.boolean_or("ignore_merges", false);
  if (auto unk = model.find("unk_token")) {
    config.unk = names.find(unk->string());
    if (!config.unk) unk->fail("is not in the vocabulary");
  }
  for (int byte = 0; byte < 256; ++byte) {
    config.byte_ids[byte] = names.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  return config;
}

class PostProcessor {
 public:
  PostProcessor(const StringTable& names, std::vector<TokenId>& prefix, std::vector<TokenId>& suffix)
      : names_(names), prefix_(prefix), suffix_(suffix) {}

  void add(const JsonPart& config) {
    std::string_view type = config.at("type").string();
    if (type == "Sequence") {
      for (const JsonPart& part : config.at("processors").items()) add(part);
    } else if (type == "TemplateProcessing") {
      add_template(config);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      wrap({pair_id(config.at("cls"))}, {pair_id(config.at("sep"))});
    } else if (type != "ByteLevel") {  // which only moves offsets
      config.fail(fmt::format("post-processor {} is not supported", type));
    }
  }

 private:
  void add_template(const JsonPart& config) {
    std::vector<TokenId> before, after;
    bool seen = false;
    for (const JsonPart& part : config.at("single").items()) {
      if (auto token = part.find("SpecialToken")) {
        std::vector<TokenId> ids = special_ids(config, token->at("id").string());
        (seen ? after : before).insert((seen ? after : before).end(), ids.begin(), ids.end());
      } else {
        if (seen || part.at("Sequence").at("id").string() != "A") part.fail("must be one sequence A");
        seen = true;
      }
    }
    if (!seen) config.fail("has no sequence A");
    wrap(before, after);
  }

  std::vector<TokenId> special_ids(const JsonPart& config, std::string_view name) const {
    std::vector<TokenId> ids;
    for (const JsonPart& id : config.at("special_tokens").at(name).at("ids").items())
      ids.push_back(checked(id));
    return ids;
  }

  TokenId pair_id(const JsonPart& pair) const {
    auto items = pair.items();
    if (items.size() != 2) pair.fail("must be [name, id]");
    return checked(items[1]);
  }

  TokenId checked(const JsonPart& id) const {
    std::int64_t value = id.integer();
    if (value < 0 || value >= names_.size()) id.fail("is not an id of the vocabulary");
    return static_cast<TokenId>(value);
  }

  void wrap(std::vector<TokenId> before, const std::vector<TokenId>& after) {
    before.insert(before.end(), prefix_.begin(), prefix_.end());
    prefix_ = std::move(before);
    suffix_.insert(suffix_.end(), after.begin(), after.end());
  }

  const StringTable& names_;
  std::vector<TokenId>&prefix_, &suffix_;
};

// An added token that is looked for in normalized text is itself normalized first.
void normalize_added_tokens(Tokenizer::Impl& impl) {
  for (AddedToken& token : impl.added) {
    TextArena arena;
    if (token.normalized)
      token.match = std::string(impl.normalizer.apply({.text = token.content}, arena).text);
  }
}

}  // namespace

std::unique_ptr<Tokenizer::Impl> read_tokenizer(std::string_view tokenizer_json, std::string_view name) {
  JsonDocument document(tokenizer_json, name);
  JsonPart root = document.root(), model = root.at("model");
  auto impl = std::make_unique<Tokenizer::Impl>();
  refuse_unsupported_model(model);
  if (auto part = root.find("normalizer")) impl->normalizer = Normalizer(*part);
  if (auto part = root.find("pre_tokenizer")) impl->pre_tokenizer = PreTokenizer(*part);
  auto decoder = root.find("decoder");
  if (decoder) impl->decoder = DecoderPlan(*decoder);
  if (!decoder) impl->decoder.separator = " ";

  const Names model_names = read_vocab(model);
  const StringTable model_table(model_names);
  Names names = model_names;
  impl->added = read_added_tokens(root, model_table, names);
  normalize_added_tokens(*impl);
  impl->raw_finder = std::make_unique<AddedTokenFinder>(impl->added, false);
  impl->normalized_finder = std::make_unique<AddedTokenFinder>(impl->added, true);
  impl->names = StringTable(names);
  impl->special.resize(names.size());
  for (const AddedToken& token : impl->added) impl->special[token.id] = token.special;

  TextArena arena;
  bool byte_level = impl->pre_tokenizer.byte_level();
  Names keys = make_keys(model_names, impl->added, byte_level, arena);
  impl->bpe = std::make_unique<Bpe>(read_bpe(model, model_table, std::move(keys), byte_level));
  if (auto part = root.find("post_processor"))
    PostProcessor(impl->names, impl->prefix, impl->suffix).add(*part);
  return impl;
}

// "model_max_length" is often 1e30 written out, which only simdjson's on-demand parser can step over.
void read_tokenizer_config(std::string_view config_json, std::string_view name, Tokenizer::Impl& impl) {
  namespace ondemand = simdjson::ondemand;
  simdjson::padded_string padded(config_json);
  ondemand::parser parser;
  try {
    ondemand::document document = parser.iterate(padded);
    for (ondemand::field field : document.get_object()) {
      std::string_view key = field.unescaped_key();
      if (key != "bos_token" && key != "eos_token") continue;
      ondemand::value value = field.value();
      if (value.is_null()) continue;
      bool is_object = value.type() == ondemand::json_type::object;
      std::string_view token = is_object ? value["content"].get_string() : value.get_string();
      (key == "bos_token" ? impl.bos_token : impl.eos_token) = token;
    }
  } catch (const simdjson::simdjson_error& error) {
    throw Error(fmt::format("{}: bos_token or eos_token cannot be read: {}", name, error.what()));
  }
}

}  // namespace fastgen
