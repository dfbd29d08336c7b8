// The messages of a chat request, checked and made ready for the template.
#pragma once

#include <string>

#include "server/json_fields.h"

namespace fastgen::server {

// A JSON array of messages: content parts joined (with a newline, as templates that know only text expect),
// "developer" as "system", everything else as the client sent it. Throws ApiError naming messages[i].field.
std::string read_messages(const JsonField& messages);

// A chat template's name or text. Throws ApiError where it is empty or has more than kMaxTemplateBytes.
std::string read_chat_template(const JsonField& field);

}  // namespace fastgen::server
