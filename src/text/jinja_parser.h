// Tokens to tree, after Jinja2's grammar.
#pragma once

#include <string_view>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace fastgen::jinja {

// Throws SyntaxError: bad source, an unknown tag, filter or test, or nesting over the limits.
Template parse_template(std::string_view source);

}  // namespace fastgen::jinja
