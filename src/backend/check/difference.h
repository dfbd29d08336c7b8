// How far two tensors in host memory are apart, measured by what their dtype can tell.
#pragma once

#include <cstdint>
#include <string>

#include "backend/tensor.h"

namespace fastgen {

// |tested - reference| may be relative * (|reference| + the root mean square of the reference's numbers other
// than 0). 0: equal bits.
double tolerance_of(DType dtype);

struct Difference {
  std::int64_t num_beyond = 0;     // elements out of tolerance
  std::int64_t worst_element = 0;  // the one that is furthest out, of those the largest difference
  double reference = 0, tested = 0;  // its values
  double tolerance = 0;            // what was allowed there

  // "17 elements, the worst at 1234: 0.5 against 0.53, allowed 0.004"
  std::string text() const;
};

// Of two tensors of one dtype and shape. Integers must be equal; a number that is not finite must be the same on both sides.
Difference difference_of(const Tensor& reference, const Tensor& tested);

}  // namespace fastgen
