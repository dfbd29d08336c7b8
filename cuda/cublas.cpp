#include "cublas.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";

class Library {
 public:
  Library() : handle_(dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw Error(fmt::format("--backend cuda: cannot load cuBLASLt: {}", dlerror()));
  }
  template <typename Function>
  void find(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (function == nullptr) throw Error(fmt::format("--backend cuda: {} lacks {}", kLibrary, name));
  }

 private:
  void* handle_;  // never closed: the library stays for the life of the process
};

CublasLt load() {
  const Library library;
  CublasLt lt{};
  library.find(lt.create, "cublasLtCreate");
  library.find(lt.destroy, "cublasLtDestroy");
  library.find(lt.status_string, "cublasLtGetStatusString");
  library.find(lt.version, "cublasLtGetVersion");
  library.find(lt.matmul, "cublasLtMatmul");
  library.find(lt.find_algorithms, "cublasLtMatmulAlgoGetHeuristic");
  library.find(lt.check_algorithm, "cublasLtMatmulAlgoCheck");
  library.find(lt.desc_create, "cublasLtMatmulDescCreate");
  library.find(lt.desc_destroy, "cublasLtMatmulDescDestroy");
  library.find(lt.desc_set, "cublasLtMatmulDescSetAttribute");
  library.find(lt.preference_create, "cublasLtMatmulPreferenceCreate");
  library.find(lt.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  library.find(lt.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  library.find(lt.layout_create, "cublasLtMatrixLayoutCreate");
  library.find(lt.layout_destroy, "cublasLtMatrixLayoutDestroy");
  library.find(lt.layout_set, "cublasLtMatrixLayoutSetAttribute");
  return lt;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = load();
  return lt;
}

void cublas_check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(fmt::format("cuBLASLt: {}: {}", what, cublas_lt().status_string(status)));
}

}  // namespace fastgen
