// The methods of strings that cut: strip, split, partition and their kin, as Python has them.
#pragma once

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

Value strip(const Value& self, Args& args);
Value lstrip(const Value& self, Args& args);
Value rstrip(const Value& self, Args& args);
Value removeprefix(const Value& self, Args& args);
Value removesuffix(const Value& self, Args& args);
Value split(const Value& self, Args& args);
Value rsplit(const Value& self, Args& args);
Value partition(const Value& self, Args& args);
Value rpartition(const Value& self, Args& args);
Value splitlines(const Value& self, Args& args);

}  // namespace fastgen::jinja
