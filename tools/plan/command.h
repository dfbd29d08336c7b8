// `fgserve plan MODEL`: what a model needs, from its config and the headers of its files; no weights are read, no GPU is touched.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace fastgen::plan {

// Adds the subcommand. The result carries it out after parsing and returns the exit status: 0 if the model fits, 2 if it does not.
// It throws Error naming the file or flag.
std::function<int()> add_command(CLI::App& app);

}  // namespace fastgen::plan
