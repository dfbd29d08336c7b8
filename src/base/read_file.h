// Small files as a whole; mapped_file.h is for large ones.
#pragma once

#include <filesystem>
#include <string>

namespace fastgen {

// All bytes of the file, which may also be a pipe. Throws Error naming the file and the reason.
std::string read_file(const std::filesystem::path& path);

}  // namespace fastgen
