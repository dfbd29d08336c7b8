// What CPU this is.
#pragma once

#include <string>

namespace fastgen {

int num_cores();         // that this process may run on, at least 1
std::string cpu_name();  // "AMD EPYC"
bool cpu_has_avx512_bf16();
bool cpu_has_amx_bf16();  // and the kernel lets us use its tiles
std::string cpu_features_text();  // "AVX-512 BF16"

}  // namespace fastgen
