#include "server/chat_messages.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/json_writer.h"
#include "server/api_request.h"

namespace fastgen::server {

namespace {

constexpr std::array<std::string_view, 6> kRoles = {"system", "developer", "user", "assistant", "tool", "function"};

std::string_view read_role(const JsonField& role) {
  std::string_view name = role.string();
  if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end())
    role.refuse(fmt::format("must be system, developer, user, assistant, tool or function, got \"{}\"", name.substr(0, 64)));
  // Open models' templates know no developer; it is OpenAI's newer name for the same thing.
  return name == "developer" ? "system" : name;
}

std::string_view read_part(const JsonField& part) {
  std::string_view type, text;
  bool has_text = false;
  for (const auto& [key, field] : part.members()) {
    if (key == "type") type = field.string();
    if (key == "text") text = field.string(), has_text = true;
  }
  if (type.empty()) throw bad_field(part.path + ".type", "is required");
  if (type != "text")
    throw bad_field(part.path + ".type", fmt::format("content parts of type \"{}\" are not supported, only \"text\"", type.substr(0, 64)));
  if (!has_text) throw bad_field(part.path + ".text", "is required");
  return text;
}

std::string read_content(const JsonField& content) {
  if (content.is_string()) return std::string(content.string());
  if (!content.is_array()) content.expected("a string or an array of content parts");
  std::string joined;
  for (const JsonField& part : content.items()) {
    if (part.path != content.path + "[0]") joined += '\n';
    joined += read_part(part);
  }
  return joined;
}

void read_message(const JsonField& message, JsonWriter& json) {
  if (!message.is_object()) message.expected("an object");
  std::string_view role;
  bool has_content = false, has_calls = false;
  json.begin_object();
  for (const auto& [key, field] : message.members()) {
    if (key == "role") {
      role = read_role(field);
      json.field("role", role);
    } else if (key == "content" && !field.is_null()) {
      json.field("content", read_content(field));
      has_content = true;
    } else if (key == "audio" && !field.is_null()) {
      field.refuse("audio is not supported");
    } else {
      has_calls |= (key == "tool_calls" || key == "function_call") && !field.is_null();
      json.key(key).raw(field.raw());
    }
  }
  json.end_object();
  if (role.empty()) throw bad_field(message.path + ".role", "is required");
  if (!has_content && !(role == "assistant" && has_calls)) throw bad_field(message.path + ".content", "is required");
}

}  // namespace

std::string read_messages(const JsonField& messages) {
  if (!messages.is_array()) messages.expected("an array of messages");
  std::string out;
  JsonWriter json(out);
  json.begin_array();
  const std::vector<JsonField> items = messages.items();
  if (items.empty()) messages.refuse("must hold at least one message");
  for (const JsonField& message : items) read_message(message, json);
  json.end_array();
  return out;
}

std::string read_chat_template(const JsonField& field) {
  const std::string_view text = field.string();
  if (text.empty()) field.refuse("must not be empty");
  if (text.size() > kMaxTemplateBytes) field.refuse(fmt::format("at most {} bytes", kMaxTemplateBytes));
  return std::string(text);
}

}  // namespace fastgen::server
