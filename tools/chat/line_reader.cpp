#include "chat/line_reader.h"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <iostream>
#include <string_view>
#include <system_error>

namespace fastgen {

namespace fs = std::filesystem;

namespace {

constexpr int kHistoryLines = 1000;

constexpr std::string_view kPasteOn = "\033[?2004h", kPasteOff = "\033[?2004l", kPasteEnd = "\033[201~";

// Empty if there is no place for it.
std::string history_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (state && *state) {
    folder = state;
  } else if (home && *home) {
    folder = fs::path(home) / ".local" / "state";
  } else {
    return "";
  }
  std::error_code error;
  fs::create_directories(folder / "fastgen", error);
  if (error) return "";
  fs::permissions(folder / "fastgen", fs::perms::owner_all, error);  // what people ask is their own affair
  return folder / "fastgen" / "fgchat_history";
}

bool is_dumb_terminal() {
  const char* term = std::getenv("TERM");
  return term == nullptr || *term == '\0' || std::string_view(term) == "dumb";
}

}  // namespace

struct LineReader::Editor {
  explicit Editor(Interrupts& ctrl_c) : interrupts(ctrl_c) {
    line = el_init("fgchat", stdin, stdout, stderr);
    el_set(line, EL_CLIENTDATA, this);
    el_set(line, EL_PROMPT, &Editor::prompt_of);
    el_set(line, EL_EDITOR, "emacs");
    el_set(line, EL_GETCFN, &Editor::read_char);
    el_set(line, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_set(line, EL_ADDFN, "paste", "takes in what is pasted", &Editor::paste);
    el_set(line, EL_BIND, "\\e[200~", "paste", nullptr);
    history = history_init();
    HistEvent event;
    ::history(history, &event, H_SETSIZE, kHistoryLines);
    ::history(history, &event, H_SETUNIQUE, 1);
    if (!path.empty()) ::history(history, &event, H_LOAD, path.c_str());
    el_set(line, EL_HIST, ::history, history);
    el_source(line, nullptr);  // the user's own ~/.editrc
  }
  ~Editor() {
    history_end(history);
    el_end(line);
  }

  static Editor& of(EditLine* line) {
    void* self = nullptr;
    el_get(line, EL_CLIENTDATA, &self);
    return *static_cast<Editor*>(self);
  }
  static char* prompt_of(EditLine* line) { return of(line).prompt.data(); }

  // Waits for a byte; false on Ctrl-C.
  bool wait_for_input() {
    std::array<pollfd, 2> fds = {{{STDIN_FILENO, POLLIN, 0}, {interrupts.fd(), POLLIN, 0}}};
    while (poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) {
    }
    interrupted = (fds[1].revents & POLLIN) != 0 && interrupts.take();
    return !interrupted;
  }

  // A byte from the terminal: 1, 0 at its end, -1 on Ctrl-C. libedit's own reader would go on after a signal.
  int read_byte(char& byte) {
    while (wait_for_input()) {
      const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
      if (count >= 0 || errno != EINTR) return count > 0;
    }
    return -1;
  }

  // A character, with the same results.
  static int read_char(EditLine* line, wchar_t* out) {
    std::mbstate_t state{};
    while (true) {
      char byte = 0;
      if (const int got = of(line).read_byte(byte); got != 1) return got;
      const std::size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == static_cast<std::size_t>(-2)) continue;  // within a character
      if (used != static_cast<std::size_t>(-1)) return 1;
      state = {};  // not a character: forgotten
    }
  }

  // Pasted text with its line breaks, which would end the line if they were typed (xterm's bracketed paste mode: it comes between
  // ESC [200~, which is bound to this, and ESC [201~).
  static unsigned char paste(EditLine* line, int) {
    std::string text;
    while (!text.ends_with(kPasteEnd)) {
      char byte = 0;
      if (of(line).read_byte(byte) != 1) return CC_EOF;
      text += byte == '\r' ? '\n' : byte;
    }
    text.resize(text.size() - kPasteEnd.size());
    std::erase_if(text, [](char c) { return static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t'; });
    text.resize(text.find_last_not_of('\n') + 1);
    return el_insertstr(line, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  void remember(const std::string& text) {
    HistEvent event;
    ::history(history, &event, H_ENTER, text.c_str());
    if (!path.empty()) ::history(history, &event, H_SAVE, path.c_str());
  }

  Interrupts& interrupts;
  const bool brackets_pastes = !is_dumb_terminal();  // a dumb one would show the request
  bool interrupted = false;  // by Ctrl-C, within the line that is being read
  std::string prompt;
  const std::string path = history_path();
  EditLine* line = nullptr;
  History* history = nullptr;
};

LineReader::LineReader(Interrupts& interrupts) {
  if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) editor_ = std::make_unique<Editor>(interrupts);
}

LineReader::~LineReader() = default;

ReadResult LineReader::read(const std::string& prompt, std::string& line) {
  if (!editor_) {
    std::cout << prompt << std::flush;
    return std::getline(std::cin, line) ? ReadResult::kLine : ReadResult::kEnd;
  }
  editor_->prompt = prompt;
  editor_->interrupted = false;
  el_resize(editor_->line);
  int count = 0;
  if (editor_->brackets_pastes) std::cout << kPasteOn << std::flush;
  const char* text = el_gets(editor_->line, &count);
  if (editor_->brackets_pastes) std::cout << kPasteOff << std::flush;
  if (editor_->interrupted) {
    el_reset(editor_->line);
    std::cout << "^C\n" << std::flush;
    return ReadResult::kInterrupted;
  }
  if (!text || count <= 0) return ReadResult::kEnd;
  line.assign(text, static_cast<std::size_t>(count));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  if (line.size() > 1) editor_->remember(line);  // not the dot that ends several lines
  return ReadResult::kLine;
}

}  // namespace fastgen
