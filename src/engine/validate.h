// What is wrong with a request, before it is anyone's work.
#pragma once

#include <string>

#include "fastgen/engine.h"

namespace fastgen {

// Empty: nothing. `field`, if given, receives the name of the field at fault.
std::string validate_request(const Request& request, const EngineInfo& info, std::int32_t num_rings, std::string* field);

}  // namespace fastgen
