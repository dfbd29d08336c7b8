"""scripts/tidy on small trees of its own: a forbidden arrow is caught, an allowed one is not."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tidy(tree, *options):
    run = subprocess.run([sys.executable, str(ROOT / "scripts" / "tidy"), "--root", str(tree), *options], capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def write(tree, path, text):
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)


@pytest.mark.parametrize("path, line", [
    ("src/base/x.cpp", '#include "kv/pool.h"'),
    ("src/kv/x.cpp", '#include "backend/backend.h"'),
    ("src/kv/x.cpp", '#include "engine/queue.h"'),
    ("src/backend/x.cpp", "#include <cuda_runtime.h>"),
    ("src/backend/x.cpp", "#include <hwy/highway.h>"),
    ("src/backend/echo/x.cpp", "#include <dnnl.hpp>"),
    ("src/backend/cpu/x.cpp", '#include "model/config.h"'),
    ("cuda/x.cu", '#include "engine/engine_loop.h"'),
    ("src/model/x.cpp", '#include "kv/pool.h"'),
    ("src/model/x.cpp", "#include <boost/asio.hpp>"),
    ("src/text/x.cpp", '#include "backend/backend.h"'),
    ("src/ranks/x.cpp", '#include "engine/plan.h"'),
    ("src/engine/x.cpp", '#include "fastgen/text.h"'),
    ("src/engine/x.cpp", '#include "text/bpe.h"'),
    ("src/engine/x.cpp", "#include <boost/asio.hpp>"),
    ("src/engine/x.cpp", "#include <simdjson.h>"),
    ("src/engine/x.cpp", "#include <mpi.h>"),
    ("src/server/x.cpp", '#include "engine/scheduler.h"'),
    ("src/server/x.cpp", '#include "kv/pool.h"'),
    ("tools/fgchat.cpp", '#include "engine/scheduler.h"'),
    ("tools/fgchat.cpp", "#include <boost/asio.hpp>"),
    ("tools/fgchat.cpp", '#include "server/session.h"'),
    ("tools/fgserve.cpp", '#include "backend/backend.h"'),
    ("tools/fgserve.cpp", "#include <simdjson.h>"),
    ("tools/bench/x.cpp", '#include "kv/pool.h"'),
    ("include/fastgen/x.h", "#include <fmt/format.h>"),
    ("include/fastgen/x.h", '#include "base/check.h"'),
    ("examples/x.cpp", '#include "engine/plan.h"'),
    ("tests/kv/x.cpp", '#include "model/config.h"'),
    ("src/base/x.cpp", '#include "../kv/pool.h"'),
    ("src/base/x.cpp", '#include "check.h"'),
    ("src/base/x.cpp", "#include <base/check.h>"),
    ("src/base/x.cpp", "#include <curl/curl.h>"),
    ("src/base/x.cpp", '  #  include   "kv/pool.h"  // spelled oddly'),
])
def test_a_forbidden_include_is_caught(tmp_path, path, line):
    write(tmp_path, path, f"// A file.\n{line}\n")
    status, output = tidy(tmp_path, "--no-compile")
    assert status == 1
    assert f"{path}:2: " in output
    assert "1 complaints" in output


@pytest.mark.parametrize("path, line", [
    ("src/base/x.cpp", "#include <spdlog/spdlog.h>"),
    ("src/base/x.cpp", '#include "fastgen/error.h"'),
    ("src/kv/x.cpp", '#include "base/check.h"'),
    ("src/backend/cpu/x.cpp", "#include <hwy/highway.h>"),
    ("src/backend/cpu/x.cpp", "#include <dnnl.hpp>"),
    ("cuda/x.cpp", "#include <cublasLt.h>"),
    ("src/model/x.cpp", '#include "backend/backend.h"'),
    ("src/text/x.cpp", "#include <pcre2.h>"),
    ("src/ranks/x.cpp", "#include <mpi.h>"),
    ("src/engine/x.cpp", '#include "kv/pool.h"'),
    ("src/engine/x.cpp", "#include <sys/eventfd.h>"),
    ("src/server/x.cpp", "#include <boost/beast/http.hpp>"),
    ("tools/fgserve.cpp", '#include "server/server.h"'),
    ("tools/fgchat.cpp", "#include <histedit.h>"),
    ("tools/bench/x.cpp", "#include <boost/asio.hpp>"),
    ("tests/backend/x.cpp", "#include <hwy/targets.h>"),
    ("tests/kv/x.cpp", '#include "support/support.h"'),
    ("examples/x.cpp", '#include "fastgen/engine.h"'),
    ("tools/fgtok.cpp", "#include <simdjson.h>"),
])
def test_an_allowed_include_passes(tmp_path, path, line):
    write(tmp_path, path, line + "\n")
    status, output = tidy(tmp_path, "--no-compile")
    assert (status, "0 complaints" in output) == (0, True), output


def test_a_seventh_file_with_beast_is_one_too_many(tmp_path):
    for idx in range(6):
        write(tmp_path, f"src/server/f{idx}.cpp", "#include <boost/beast/core.hpp>\n")
    assert tidy(tmp_path, "--no-compile")[0] == 0
    write(tmp_path, "src/server/f6.cpp", "#include <boost/beast/core.hpp>\n")
    status, output = tidy(tmp_path, "--no-compile")
    assert status == 1 and "Beast is included by 7 files" in output


def test_a_header_that_leans_on_its_includer_is_caught_again_and_again(tmp_path):
    write(tmp_path, "src/base/good.h", "#pragma once\n#include <string>\ninline std::string f() { return {}; }\n")
    write(tmp_path, "src/base/bad.h", "#pragma once\ninline std::string g() { return {}; }\n")
    for _ in range(2):  # a failure is never cached
        status, output = tidy(tmp_path)
        assert status == 1
        assert "src/base/bad.h: does not compile alone" in output and "good.h" not in output


def test_a_cached_header_is_compiled_again_when_what_it_includes_changes(tmp_path):
    write(tmp_path, "src/base/low.h", "#pragma once\nstruct Low {};\n")
    write(tmp_path, "src/base/high.h", '#pragma once\n#include "base/low.h"\ninline Low low() { return {}; }\n')
    assert tidy(tmp_path)[0] == 0
    assert tidy(tmp_path)[0] == 0
    write(tmp_path, "src/base/low.h", "#pragma once\nstruct Lower {};\n")
    status, output = tidy(tmp_path)
    assert status == 1 and "src/base/high.h: does not compile alone" in output

