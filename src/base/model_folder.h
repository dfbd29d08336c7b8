// Where a model's files are: a folder, a name in the local Hugging Face hub cache, or the default model.
#pragma once

#include <filesystem>
#include <string>

namespace fastgen {

// A folder with a config.json or tokenizer.json, or "org/name" in the hub cache (HF_HUB_CACHE, else
// HF_HOME/hub, else ~/.cache/huggingface/hub; models--org--name/refs/REVISION -> snapshots/COMMIT; a revision may also be a commit).
// Throws Error saying where it looked.
std::filesystem::path resolve_model_folder(const std::string& model, const std::string& revision = "main");

// What may be lost at any time: $XDG_CACHE_HOME (else ~/.cache) /fastgen. It need not exist.
std::filesystem::path cache_folder();

// The folder that scripts/get-model makes: SmolLM2-135M-Instruct in the cache folder.
std::filesystem::path default_model_folder();

}  // namespace fastgen
