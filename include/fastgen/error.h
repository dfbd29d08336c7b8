// The one exception type: the world's fault (a file, memory, a device, bad text), said in one line that
// names the file, flag or field. Our own bugs never throw; they abort (base/check.h).
#pragma once

#include <stdexcept>

namespace fastgen {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace fastgen
