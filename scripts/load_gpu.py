"""The part of scripts/load-test that runs on a card, in slices: a burst over HTTP and offline in turns, loads at a rate, and at so many at a
time. What each measured is kept, and the file of results is written anew after each.
"""

import json
import pathlib
import sys
import tempfile

from load_runs import Programs, Server, in_pairs, say, say_pairs, servable, vocab_of, write_times
from slices import Record, Result, Slice, fingerprint, main as run_slices

LONG = ("--input-len", 1024, "--output-len", 128)
SHORT = ("--input-len", 64, "--output-len", 256)
BURST, QUICK_BURST = (512, 1024, 128), (16, 64, 16)
BURST_WARMUP = 16
RATE_WARMUP_S = 5  # of the same load before the measured one: kernels are loaded at their first use
CLOSED = {256: 1024, 1: 20}  # requests at a time, requests


class GpuLoad:
    def __init__(self, options, head, scratch):
        self.options, self.head, self.quick = options, head, options.quick
        self.programs = Programs(options.fgserve, options.fgbench)
        self.model = servable(options.gpu, scratch)
        self.flags = ["--backend", options.backend, "--max-batch", 512, *options.server_args.split()]
        if "echo" not in options.backend:
            self.flags.append("--dummy-weights")
        key = f"{fingerprint([options.fgserve, options.fgbench])} {options.gpu.name} {self.flags} {options.burst_args} {options.seconds} {options.quick}"
        self.record, self.key = Record(options.record, key), key

    def run(self):
        slices = list(self.slices())
        status = run_slices(self.options, slices, self.key, after_each=lambda: self.write(slices))
        if pairs := self.pairs(self.found(slices)):
            say_pairs(pairs)
        return status

    def slices(self):
        for turn in range(self.options.repeats):
            yield self.slice(f"burst {turn + 1}", 100, lambda turn=turn: self.burst(turn))
        for rate in self.options.rates:
            yield self.slice(f"{rate:g} a second", 45 + 1.5 * self.options.seconds, lambda rate=rate: self.rate(rate))
        for concurrency, count in CLOSED.items():
            yield self.slice(f"{concurrency} at a time", 60, lambda concurrency=concurrency, count=count: self.closed(concurrency, count))

    def slice(self, name, seconds, measure):
        def work():
            try:
                data, text = measure()
                return Result(passed=1, data=data, text=text)
            except (RuntimeError, OSError) as error:
                return Result(failed=1, text=str(error))

        return Slice(name, seconds, work)

    # ---- what slices measure

    def burst(self, turn):
        shape = QUICK_BURST if self.quick else BURST
        offline, http, record = self.programs.burst_pair(turn, self.model, [*self.flags, *self.options.burst_args.split()], *shape, BURST_WARMUP)
        data = {"commit": record["commit"], "machine": record["machine"], "device": record["config"]["device"], "offline": offline, "http": http}
        return data, f"offline {offline:.1f} tokens/s, over HTTP {http:.1f}"

    def rate(self, rate):
        seconds = 2 if self.quick else self.options.seconds
        flags = (*LONG, "--request-rate", rate)
        return self.load(flags, max(2, int(rate * (1 if self.quick else RATE_WARMUP_S))), max(2, int(rate * seconds)))

    def closed(self, concurrency, count):
        concurrency, count = (min(concurrency, 8), 16) if self.quick else (concurrency, count)
        shape = LONG if concurrency == 1 else SHORT
        return self.load((*shape, "--max-concurrency", concurrency), min(count, 2 * concurrency), count)

    def load(self, flags, warmup, count):
        """The load twice on a fresh server, of which the first is short and does not count."""
        flags = (*flags, "--vocab", vocab_of(self.model), "--percentiles", "50,90,99")
        with Server(self.programs.fgserve, self.model, *self.flags) as server:
            self.programs.load(server, *flags, "--num-prompts", warmup, "--seed", 1)
            run, record = self.programs.load(server, *flags, "--num-prompts", count)
            run["step_to_write_ms"] = write_times(server.write_buckets())
        data = {"commit": record["commit"], "machine": record["machine"], "run": run}
        return data, (f"{run['output_throughput']:.1f} tokens/s, TTFT p50 / p99 {run['median_ttft_ms']:.1f} / {run['p99_ttft_ms']:.1f} ms, TPOT "
                      f"{run['median_tpot_ms']:.2f} / {run['p99_tpot_ms']:.2f}, ITL p99 {run['p99_itl_ms']:.1f}")

    # ---- the file

    def found(self, slices):
        return {part.name: entry["data"] for part in slices if (entry := self.record.read(part.name)).get("data")}

    def pairs(self, found):
        bursts = [data for name, data in found.items() if name.startswith("burst ")]
        return in_pairs([one["offline"] for one in bursts], [one["http"] for one in bursts]) if bursts else {}

    def write(self, slices):
        found = self.found(slices)
        if not found:
            return
        about = {key: data[key] for data in found.values() for key in ("commit", "machine", "device") if key in data}
        record = {**self.head, **about, "model": self.options.gpu.name, "flags": " ".join(map(str, self.flags))}
        prompts, input_len, output_len = QUICK_BURST if self.quick else BURST
        if pairs := self.pairs(found):
            record["burst"] = {"prompts": prompts, "input_len": input_len, "output_len": output_len, "more_flags": self.options.burst_args, **pairs}
        record["runs"] = [data["run"] for name, data in found.items() if name.endswith(" a second")]
        record["closed"] = [data["run"] for name, data in found.items() if name.endswith(" at a time")]
        self.options.output.write_text(json.dumps(record, indent=1) + "\n")


def run(options, head):
    """The exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        return GpuLoad(options, head, pathlib.Path(scratch)).run()
