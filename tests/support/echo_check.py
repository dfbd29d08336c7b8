"""The echo backend's published function (src/backend/echo/echo_function.h) in plain integers, for clients that check
every token that a server on --backend echo sends.

    context = Context(prompt_ids)
    for position, token in enumerate(received):
        assert token == context.next_id(vocab, temperature, seed, choice_idx, position)
        context.push(token)

Run as a program it checks itself against the vectors that tests/backend/echo_test.cpp also holds.
"""

MASK = (1 << 64) - 1
BAN_BIAS = -100
MAX_REDRAWS = 256


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def first_id(vocab):
    return min(256, vocab // 4)


def id_of_draw(draw, vocab):
    return first_id(vocab) + draw % (vocab - first_id(vocab))


class Context:
    """All tokens so far, prompt and output; push and next_id take constant time."""

    def __init__(self, tokens=()):
        self.keys = self.values = self.length = 0
        for token in tokens:
            self.push(token)

    def push(self, token):
        term = mix64(token << 32 | self.length)
        self.keys = (self.keys + term) & MASK
        self.values = (self.values + mix64(term)) & MASK
        self.length += 1

    def hash(self):
        return mix64(self.keys ^ ((self.values << 32 | self.values >> 32) & MASK))

    def next_id(self, vocab, temperature=0, seed=0, choice_idx=0, output_position=0, banned=()):
        """The token that must come next; banned: ids with a logit bias of BAN_BIAS or less."""
        draw = self.hash()
        if temperature > 0:
            draw = mix64(draw ^ mix64((seed + mix64(choice_idx << 32 | output_position)) & MASK))
        for _ in range(MAX_REDRAWS + 1):
            token = id_of_draw(draw, vocab)
            if token not in banned:
                return token
            draw = mix64(draw)
        return next((token for token in range(vocab) if token not in banned), 0)

    def logprob(self, token, vocab):
        """Of `token` as the next one. Exact in float32."""
        h = self.hash()
        rank = (token - id_of_draw(h, vocab)) % vocab
        return -((h >> 32) % 1024 + 8 * min(rank, 4096)) / 1024

    def top(self, count, vocab):
        """The `count` most likely next tokens as (id, logprob), most likely first."""
        greedy = id_of_draw(self.hash(), vocab)
        ids = [(greedy + j) % vocab for j in range(count)]
        return [(token, self.logprob(token, vocab)) for token in ids]


def generate(prompt, count, vocab, temperature=0, seed=0, choice_idx=0, banned=()):
    """The whole output for a prompt, end-of-sequence ids ignored."""
    context, out = Context(prompt), []
    for position in range(count):
        out.append(context.next_id(vocab, temperature, seed, choice_idx, position, banned))
        context.push(out[-1])
    return out


def self_test():
    assert mix64(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 with seed 0
    assert mix64(MASK) == 0xE4D971771B652C20
    assert Context([1, 2, 3]).hash() == 0x6744FD9C4B526D00
    assert generate([1, 2, 3], 8, 49152) == [15616, 16928, 8350, 43578, 13445, 11249, 41839, 35857]
    assert generate([1, 2, 3], 8, 49152, 0.8, 42, 1) == [1735, 43374, 3550, 6105, 33215, 26488, 27888, 12164]
    assert generate([511, 0, 511], 8, 512) == [494, 155, 500, 450, 233, 209, 336, 320]
    assert generate([1, 2, 3], 4, 49152, banned=(15616,)) == [26351, 45363, 48201, 28455]
    assert generate([0], 2, 5, banned=(1, 2, 3, 4)) == [0, 0]
    top = [(15616, -0.40234375), (15617, -0.41015625), (15618, -0.41796875)]
    assert Context([1, 2, 3]).top(3, 49152) == top
    assert Context([1, 2, 3]).logprob(7, 49152) == -32.40234375


if __name__ == "__main__":
    self_test()
    print("ok")
