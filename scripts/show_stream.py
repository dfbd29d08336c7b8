"""Shows a streamed chat completion (server-sent events on standard input) as it comes, then its tokens and speed.

Exit status 1 if the stream is an error, breaks off, or holds no text.
"""

import json
import sys
import time


def events(lines):
    """The JSON of each data: line, up to [DONE]; ends the program on anything else."""
    for line in lines:
        line = line.strip()
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
        elif line and not line.startswith(":"):
            sys.exit(f"not a stream: {line}")
    sys.exit("the stream broke off")


def main():
    first = last = None
    usage, num_pieces = None, 0
    for event in events(sys.stdin):
        if "error" in event:
            sys.exit(event["error"].get("message", event))
        usage = event.get("usage") or usage
        for choice in event.get("choices", []):
            if text := choice.get("delta", {}).get("content"):
                last = time.monotonic()
                first = first or last
                num_pieces += 1
                print(text, end="", flush=True)
    if first is None:
        sys.exit("the answer is empty")
    num_tokens = usage["completion_tokens"] if usage else num_pieces
    # The first token's time is the prompt's; the others came between it and the last.
    rate = f", {(num_tokens - 1) / (last - first):.1f} tokens/s" if last > first else ""
    print(f"\n\n  --- [{num_tokens} tokens{rate}]")


if __name__ == "__main__":
    main()
