"""Makes programs travel: bundle.py FOLDER PROGRAM...

Puts stripped copies of the programs into FOLDER (those that are there already stay) and, in FOLDER/lib, every shared
library that they need but the C library's own. The programs must have been linked with the run path $ORIGIN/lib
(-Dbundle=true); at the end each is asked whether it finds all of them there. Under `meson install`, FOLDER is relative
to the prefix.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

# glibc is every machine's own (2.36 or newer, as on Debian 12).
GLIBC = re.compile(r"^(linux-vdso|ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libresolv|libutil)\.so")
NEEDED = re.compile(r"^\s*(\S+) => (\S+|not found)", re.MULTILINE)


def needed_libraries(program):
    """Name to path (or "not found"), the libraries' own needs included."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    text = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True, env=environment).stdout
    return {name: path for name, path in NEEDED.findall(text) if not GLIBC.match(name)}


def copy_program(source, folder):
    target = folder / source.name
    if source.resolve() != target.resolve():
        shutil.copy2(source, target)
    subprocess.run(["strip", str(target)], check=True)
    return target


def copy_libraries(program, lib):
    for name, path in needed_libraries(program).items():
        if path == "not found":
            sys.exit(f"bundle: {program.name} needs {name}, which is not on this machine")
        if not (lib / name).exists():
            shutil.copy2(path, lib / name)  # the file itself, under the name that the program asks for


def check(program, lib):
    for name, path in needed_libraries(program).items():
        if pathlib.Path(path).resolve().parent != lib.resolve():
            sys.exit(f"bundle: {program} would take {name} from {path}, not from {lib}: was it built with -Dbundle=true?")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder = pathlib.Path(os.environ.get("MESON_INSTALL_DESTDIR_PREFIX", ".")) / sys.argv[1]
    sources = [pathlib.Path(name) for name in sys.argv[2:]]
    lib = folder / "lib"
    if lib.exists():
        shutil.rmtree(lib)  # of an older bundle
    lib.mkdir(parents=True)
    for source in sources:
        copy_libraries(source, lib)
    programs = [copy_program(source, folder) for source in sources]
    for program in programs:
        check(program, lib)
    size = sum(path.stat().st_size for path in [*programs, *lib.iterdir()])
    print(f"bundle: {len(programs)} programs, {len(list(lib.iterdir()))} libraries, {size / 1e6:.1f} MB in {folder}")


if __name__ == "__main__":
    main()
