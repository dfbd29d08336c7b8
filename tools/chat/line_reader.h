// Lines from a person (libedit: editing, history) or from a pipe.
#pragma once

#include <memory>
#include <string>

#include "chat/interrupts.h"

namespace fastgen {

enum class ReadResult {
  kLine,
  kInterrupted,  // Ctrl-C: what was typed is forgotten
  kEnd,          // Ctrl-D, or the pipe is over
};

class LineReader {
 public:
  // On a terminal, lines are kept in the history file: $XDG_STATE_HOME (else ~/.local/state) /fastgen/fgchat_history.
  explicit LineReader(Interrupts& interrupts);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Without the line break; pasted text may have some within.
  ReadResult read(const std::string& prompt, std::string& line);

 private:
  struct Editor;  // libedit's state; null without a terminal
  std::unique_ptr<Editor> editor_;
};

}  // namespace fastgen
