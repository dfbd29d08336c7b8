"""What the real Jinja2 makes of templates, for scripts/make-goldens (section `templates`).

The environment is the one in which Hugging Face transformers renders chat templates: the immutable sandbox,
trim_blocks, lstrip_blocks, loop controls, and its own tojson, raise_exception, strftime_now and
{% generation %}.
"""

import datetime
import json

NOW = "2024-07-26 12:00:00"
BOS, EOS = "<s>", "</s>"


def environment():
    import jinja2
    from jinja2.ext import Extension
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromisoformat(NOW).strftime(f)
    return env


def render(env, source, variables):
    try:
        return {"expected": env.from_string(source).render(**variables)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


# What the snippets below may read.
VARIABLES = {
    "s": "Hello, World", "u": "Größe 你好 ß ǆ", "sp": "  \t padded\n ", "empty": "", "lines": "one\ntwo\n\nthree\n",
    "csv": "a,b,,c", "html": "<a href=\"x\">'&'</a>", "n": 7, "neg": -7, "big": 9007199254740993, "f": 2.5,
    "small": 1e-7, "huge": 1e22, "t": True, "no": False, "nil": None, "l": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "nested": [[1, 2], [3, [4, "x'y"]]], "nothing": [],
    "d": {"b": 1, "a": {"k": [1, 2.0, None, True, "q\"\n"]}, "items": "own", "é": "ü"},
    "people": [{"name": "Bo", "age": 30, "pet": {"kind": "cat"}}, {"name": "al", "age": 25}, {"name": "Cy", "age": 30}],
    "deep": {"x": [{"y": {"z": "found"}}]},
}

SNIPPETS = r"""
{{ s }} {{ n }} {{ f }} {{ t }} {{ nil }} {{ l }} {{ d }}
{{ nested }} {{ (1,) }} {{ (1, 'a') }} {{ () }} {{ {} }} {{ {'a': none, 1: 2.0} }}
{{ ["it's", 'say "x"', 'both \' and "', 'tab\t', 'é', 'nul\x00', '\u200b', '\U0001f600'] }}
{{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e100 }} {{ 123456789.125 }} {{ -0.0 }} {{ small }} {{ huge }} {{ 0.1 + 0.2 }}
{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1_0.2_5 }}
{{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 4 ** 0.5 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 1 + true }} {{ true + true }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == false }} {{ [1] == [1.0] }} {{ {'a': 1} == {'a': true} }} {{ (1,) == [1] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' <= 'b' }} {{ [1, 2] < [1, 3] }} {{ 3 > 2 >= 2 != 1 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 1 >= none }}
{{ {} < {} }}
{{ 'a' + 'b' }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'ab' * 3 }} {{ 2 * [0] }} {{ 'x' * -1 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + 'a' }}
{{ [] + none }}
{{ none + 'a' }}
{{ 'a' - 'b' }}
{{ 'a' * 'b' }}
{{ -'a' }}
{{ 'a' ~ 1 ~ none ~ true ~ 2.0 ~ [1] ~ missing }}
{{ 'a' if t }}|{{ 'a' if no }}|{{ 'a' if no else 'b' }}|{{ 1 if no else 2 if no else 3 }}
{{ ('a' if no).x }}
{{ t and 'x' }} {{ no and 'x' }} {{ no or 'y' }} {{ '' or [] or 'z' }} {{ not t }} {{ not '' and not [] }} {{ not 1 in [1] }}
{{ 'l' in s }} {{ 'z' not in s }} {{ 1 in l }} {{ 'b' in d }} {{ 'x' in missing }} {{ none in [none] }} {{ '' in '' }}
{{ 1 in s }}
{{ 'a' in nil }}
{{ 'a' in 5 }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[::2] }} {{ s[-3:] }} {{ s[:-3] }} {{ s[10:2:-3] }} {{ s[5:2] }} {{ s[:99] }}|{{ s[99] }}|{{ u[0:3] }} {{ u[6] }} {{ u[::-1] }}
{{ l[0] }} {{ l[-1] }} {{ l[5] is defined }} {{ l[::-1] }} {{ l[1:] }} {{ (1,2,3)[:2] }} {{ l[true] }} {{ l['x'] }}
{{ l[5].x }}
{{ s[::0] }}
{{ s['a':] }}
{{ d.b }} {{ d['b'] }} {{ d.a.k[1] }} {{ d.a['k'][-1] }} {{ d['items'] }} {{ d.items is callable }} {{ d.x is defined }} {{ d.é }} {{ deep.x[0].y.z }} {{ deep.x.0.y['z'] }}
{{ d.x.y }}
{{ missing.x }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ 1 + missing }}
{{ -missing }}
{{ missing < 1 }}
{{ d.nope() }}
{{ s.nope() }}
{{ s.nope.deeper }}
{{ nil.x }}
{{ nil.x.y }}
{{ n.x.y }}
{{ l.x.y }}
{{ s() }}
{{ nil() }}
{{ missing == missing2 }} {{ missing == none }} {{ missing }}|{{ [missing] }} {{ missing|length }} {{ missing|list }} {{ missing is undefined }} {{ missing|default('x') }} {{ missing|string }}|
{% for x in missing %}x{% else %}none{% endfor %}
{% for x in nil %}x{% endfor %}
{% for x in 5 %}x{% endfor %}
{{ l.append(4) }}
{{ l.sort() }}
{{ d.update({}) }}
{{ d.pop('b') }}
{{ s.__class__ }}
{{ s.__class__.x }}
{{ ''.__class__.__mro__ }}
{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ u.lower() }} {{ u.title() }} {{ s.title() }} {{ "they're bill's".title() }} {{ 'hELLO wORLD'.capitalize() }} {{ s.swapcase() }}
[{{ sp.strip() }}] [{{ sp.lstrip() }}] [{{ sp.rstrip() }}] [{{ 'xxaxbxx'.strip('x') }}] [{{ 'abcba'.lstrip('ab') }}] [{{ 'abcba'.rstrip('ba') }}] [{{ 'ééaé'.strip('é') }}] [{{ 'a'.strip('') }}] [{{ ' a '.strip(none) }}]
{{ csv.split(',') }} {{ csv.split(',', 1) }} {{ csv.rsplit(',', 1) }} {{ csv.split(',', maxsplit=2) }} {{ ' a  b c '.split() }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a<x>b<x>'.split('<x>') }} {{ ' '.split(none, 0) }} {{ ' a b '.rsplit(none, 0) }} {{ 'aaa'.rsplit('aa') }}
{{ s.split('') }}
{{ lines.splitlines() }} {{ 'a\r\nb\rc\x0bd'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }}
{{ s.startswith('He') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('ld') }} {{ s.endswith(('x',)) }} {{ s.startswith('W', 7) }} {{ s.startswith('') }} {{ s.endswith('He', 0, 2) }}
{{ s.startswith(1) }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ 'aaa'.replace('aa', 'b') }} {{ s.replace('zz', 'y') }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ u.find('你') }} {{ s.find('o', 5) }} {{ s.index('W') }} {{ s.count('l') }} {{ 'aaaa'.count('aa') }} {{ 'abc'.count('') }} {{ s.find('') }} {{ s.find('l', -3, -1) }}
{{ s.index('zz') }}
{{ ', '.join(words) }} {{ '-'.join('abc') }} {{ ''.join([]) }}
{{ ','.join([1]) }}
{{ ','.join(5) }}
{{ 'abc'.isdigit() }} {{ '123'.isdigit() }} {{ ''.isdigit() }} {{ 'ab1'.isalnum() }} {{ 'é'.isalpha() }} {{ ' \n'.isspace() }} {{ 'AB1'.isupper() }} {{ 'ab1'.islower() }} {{ '1'.islower() }} {{ 'Ab Cd'.istitle() }} {{ '½'.isnumeric() }} {{ '٣'.isdecimal() }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('bc') }} {{ 'abc'.removeprefix('x') }}
[{{ 'ab'.ljust(5) }}] [{{ 'ab'.rjust(5, '*') }}] [{{ 'ab'.center(5) }}] [{{ 'abc'.center(6, '.') }}] [{{ '-5'.zfill(4) }}] [{{ '5'.zfill(3) }}]
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format(1, 2) }} {{ '{x} {y[0]}'.format(x=1, y=[5]) }} {{ '{{}}'.format() }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format(1, 'a', 'b', 'c') }} {{ '{:.2f} {:05d} {:,} {:x} {:+d} {:e} {:%}'.format(3.14159, 42, 1234567, 255, 3, 12345.678, 0.5) }} {{ '{!r}'.format('a') }} {{ '{}'.format(2.0) }} {{ '{}'.format(none) }}
{{ '{}'.format() }}
{{ '{x}'.format() }}
{{ '{'.format(1) }}
{{ '%s %d %5.2f %r %x %%' % ('a', 3, 2.5, 'q', 255) }} {{ '%(a)s' % {'a': 1} }} {{ '%s' % 5 }} {{ '[%5s] [%-5s] [%05d] [%+d]' % ('a', 'b', 42, 7) }} {{ '%s' % none }} {{ '%.2s' % 'abc' }} {{ '%s' % [1] }} {{ '%i' % 2.9 }} {{ '%g %e' % (0.5, 1234.5) }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ '%s' % (1, 2) }}
{{ '%q' % 1 }}
{{ d.keys() }} {{ d.values() | list }} {{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{{ l.index(2) }} {{ l.count(1) }} {{ (1, 2).index(2) }}
{{ l.index(9) }}
{{ {'a': 1, 'a': 2, 'b': 3} }} {{ {1: 'a', true: 'b', 1.0: 'c'} }}
{{ {[1]: 2} }}
{{ -5|abs }} {{ 2.5|abs }} {{ 'hello world'|capitalize }} {{ l|count }} {{ 'x'|d('y') }} {{ ''|default('y') }}|{{ ''|default('y', true) }} {{ nil|default('z') }} {{ no|default('q', boolean=true) }}
{{ {'b': 1, 'A': 3, 'c': 2}|dictsort }} {{ {'b': 1, 'A': 3}|dictsort(true) }} {{ {'b': 1, 'a': 3}|dictsort(by='value', reverse=true) }}
{{ html|escape }} {{ html|e }} {{ 'a'|safe }} {{ 5|string }} {{ html|forceescape }}
{{ l|first }} {{ l|last }} {{ nothing|first }}|{{ 'abc'|first }} {{ 'abc'|last }} {{ d|first }}
{{ (nothing|first).x }}
{{ '3.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ '1e3'|float }} {{ '42'|int }} {{ '42.9'|int }} {{ 'x'|int }} {{ 'x'|int(-1) }} {{ '0x1A'|int(0, 16) }} {{ ' 7 '|int }} {{ 3.9|int }} {{ -3.9|int }} {{ true|int }} {{ nil|int }} {{ '1_000'|int }} {{ '-12'|int }} {{ '+5'|int }}
{{ '%s-%s'|format(1, 2) }} {{ '%(a)s'|format(a=5) }}
{% for k, v in people|groupby('age') %}{{ k }}:{{ v|map(attribute='name')|join(',') }};{% endfor %} {% for g in words|groupby(0) %}{{ g.0 }}{% endfor %}
{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent(2, first=true, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ ''|indent }}|{{ 'a\n'|indent }}
{{ l|join }} {{ l|join('-') }} {{ people|join(', ', attribute='name') }} {{ [1, none, 'a']|join('|') }} {{ 'abc'|join('.') }} {{ d|join(',') }}
{{ 'abc'|length }} {{ u|length }} {{ d|length }} {{ (1, 2)|length }} {{ range(5)|length }}
{{ 5|length }}
{{ nil|length }}
{{ 'abc'|list }} {{ d|list }} {{ range(3)|list }} {{ s|lower }} {{ s|upper }} {{ 5|upper }} {{ u|lower }}
{{ people|map(attribute='name')|list }} {{ words|map('upper')|list }} {{ people|map(attribute='pet.kind', default='no')|list }} {{ ['a', 'b']|map('replace', 'a', 'x')|join }} {{ [' a ']|map('trim')|list }} {{ nested|map('first')|list }}
{{ l|map('nope')|list }}
{{ l|map|list }}
{{ l|max }} {{ l|min }} {{ words|max }} {{ words|min }} {{ people|max(attribute='age') }} {{ words|min(case_sensitive=true) }} {{ nothing|max }}|
{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ [0, 1, '', 'a']|select|list }} {{ people|selectattr('age', 'equalto', 30)|map(attribute='name')|list }} {{ people|rejectattr('pet')|list|length }} {{ people|selectattr('pet', 'defined')|list|length }} {{ l|select('>', 1)|list }} {{ l|select('in', [1, 2])|list }} {{ people|selectattr('pet.kind', 'eq', 'cat')|list|length }}
{{ l|select('nope')|list }}
{{ people|selectattr|list }}
{{ s|replace('l', 'x') }} {{ s|replace('l', 'x', 1) }} {{ 5|replace(5, 6) }} {{ l|reverse|list }} {{ s|reverse }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor') }} {{ 42|round }} {{ 1234|round(-2) }} {{ 2.675|round(2) }} {{ 1e20|round }} {{ -0.5|round }}
{{ 'a'|round }}
{{ range(7)|slice(3)|list }} {{ range(7)|slice(3, 'x')|list }} {{ range(5)|batch(2)|list }} {{ range(5)|batch(2, 'x')|list }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ people|sort(attribute='age,name')|map(attribute='name')|list }} {{ 'bca'|sort }}
{{ [1, 'a']|sort }}
{{ l|sum }} {{ people|sum(attribute='age') }} {{ l|sum(start=10) }} {{ [1.5, 2]|sum }} {{ nothing|sum }}
{{ 'hello wORLD-foo (bar)'|title }} {{ sp|trim }}| {{ 'xxaxx'|trim('x') }} {{ 5|trim }}
{{ 'a long text that is cut somewhere'|truncate(20) }} {{ 'a long text that is cut somewhere'|truncate(20, true) }} {{ 'short'|truncate(3, leeway=5) }} {{ 'abcdefghijkl'|truncate(5, true, '..', 0) }}
{{ d|tojson }} {{ nested|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ '\U0001f600'|tojson(ensure_ascii=true) }} {{ html|tojson }} {{ none|tojson }} {{ 1.0|tojson }} {{ big|tojson }} {{ (1, 2)|tojson }} {{ 'a\x01\x7f/\b\f'|tojson }} {{ huge|tojson }}
{{ d|tojson(indent=2) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=4) }} {{ [1, [2]]|tojson(indent='--') }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(sort_keys=true) }} {{ [1, 2]|tojson(indent=0) }} {{ [1]|tojson(indent=1, separators=(', ', ' : ')) }} {{ {1: 2, none: 3, true: 4, 2.5: 5}|tojson }}
{{ missing|tojson }}
{{ l|map('string')|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ ['a', 'A', 'b', 'a']|unique|list }} {{ ['a', 'A']|unique(true)|list }} {{ people|unique(attribute='age')|map(attribute='name')|list }} {{ [1, 1.0, true]|unique|list }}
{{ 'a b&c/ü'|urlencode }} {{ {'a b': 'c&d'}|urlencode }} {{ 'one two, three_four'|wordcount }} [{{ 'ab'|center(6) }}] {{ d|items|list|length }} {{ deep|attr('x') is defined }} {{ s|attr('upper') is defined }}
{{ s|nope }}
{{ s is nope }}
{% if no %}{{ s|nope }}{% endif %}ok
{% if t %}{{ s|nope }}{% endif %}
{{ s is defined }} {{ missing is defined }} {{ nil is none }} {{ s is string }} {{ l is string }} {{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ n is iterable }} {{ s is iterable }} {{ l is sequence }} {{ d is sequence }} {{ s is sequence }} {{ n is sequence }} {{ missing is iterable }} {{ (l|map('string')) is sequence }}
{{ n is number }} {{ f is number }} {{ t is number }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ n is float }} {{ t is boolean }} {{ n is boolean }} {{ t is true }} {{ 1 is true }} {{ no is false }} {{ 0 is false }} {{ s is number }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(3) }} {{ 'a' is in 'abc' }} {{ 1 is in l }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ n is eq 7 }} {{ n is equalto(7) }} {{ n is ne 7 }} {{ n is lt 8 }} {{ n is gt 8 }} {{ n is le 7 }} {{ n is ge 8 }} {{ n is sameas 7 }} {{ none is sameas none }} {{ range is callable }} {{ s is callable }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ n is not odd }} {{ not n is odd }} {{ n is defined and n is odd }} {{ 4 is not none and true }}
{{ 'a' is odd }}
{{ range(3) }} {{ range(1, 7, 2)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ range(3)[1] }} {{ range(9)[2:4]|list }}
{{ range(100001) }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('a', 1)]) }}
{% set j = joiner('; ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{% set ns = namespace(x=1, y=[]) %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }} {{ ns.y }} {{ ns.z is defined }} {{ ns['x'] }}
{% set d.x = 1 %}
{% set ns.x = 1 %}
{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}
{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set (c, (e, g)) = (1, (2, 3)) %}{{ c }}{{ e }}{{ g }} {% set h = 1, 2 %}{{ h }}
{% set a, b = [1] %}
{% set a, b = [1, 2, 3] %}
{% set x %}block {{ n }}{% endset %}[{{ x }}] {% set y | upper | replace('A', 'b') %}abc{% endset %}[{{ y }}]
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}|{{ loop.nextitem }};{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}none{% endfor %}{% for x in l if x > 9 %}x{% else %}none{% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }} {% endfor %}{% for a in [1, 2] %}{% for b in 'xy' %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %} {% for x in range(9) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for k, v in [(1, 2), [3, 4]] %}{{ k }}{{ v }}{% endfor %} {% for k in d %}{{ k }} {% endfor %} {% for c in 'aß你' %}[{{ c }}]{% endfor %} {% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for x in l %}{{ loop(l) }}{% endfor %}
{{ loop }}|{% for x in l %}{% endfor %}{{ x }}|
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m() }}{{ m(b=1) }} {{ m.name }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }} {{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, x=2) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call m('b') %}in{{ n }}{% endcall %} {% macro e() %}{{ caller(1, 2) }}{% endmacro %}{% call(x, y=5) e() %}{{ x }}{{ y }}{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }} {% macro g() %}{{ later }}{% endmacro %}{% set later = 'late' %}{{ g() }}
{% macro m() %} x {% endmacro %}[{{ m() | trim }}] {{ m() ~ 'y' }} {{ m() is string }} {{ (m() + 'z')|length }}
{% set args = [1, 2] %}{% set kw = {'c': 3} %}{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*args, **kw) }} {{ dict(**kw) }}
{% filter upper %}ab{{ s }}{% endfilter %} {% filter trim | replace('a', 'b') %} aa {% endfilter %}|
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}| {% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}|
{% generation %}{% set inner = 1 %}gen{{ inner }}{% endgeneration %}{{ inner }}|
{% raw %}{{ not }} {% this %}{# nor #}{% endraw %}|{%- raw -%}  x  {%- endraw -%}  |
a {# comment #} b {#- tight -#} c {# {{ x }} #}d
{{ '\n\t\\\'\"\x41\u00e9\101\q' }} {{ "a'b" 'c' "d" }} {{ 'multi
line' }}
{{ s # comment }}
{{ 'x' | upper | lower ~ 'Y' }} {{ 'a' ~ 'b' | upper }} {{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ 10 - 5 - 2 }} {{ not t == no }} {{ 1 ~ 2 + 3 }} {{ -1 | abs }} {{ - 5 + 3 }} {{ +5 }}
{{ [1, 2,] }} {{ {'a': 1,} }} {{ (1, 2,) }} {{ [] }} {{ {} }} {{ [x for x in l] }}
{% print s %} {% if s %}a{% elif n %}b{% else %}c{% endif %}{% if nil %}a{% elif n %}b{% else %}c{% endif %}{% if nil %}a{% elif no %}b{% else %}c{% endif %}
{{ strftime_now('%d %b %Y %H:%M:%S %A %j %%') }} {{ strftime_now('') }}|
{{ raise_exception('stop: ' ~ n) }}
{{ raise_exception(nil) }}
{% if %}{% endif %}
{% endif %}
{% for x in l %}
{% nope %}
{{ }}
{{ 1 2 }}
{{ s. }}
{{ 'abc }}
{{ (1 }}
{{ [1) }}
{{ s
{% raw %}x
{# x
{% break %}
{% set true = 1 %}
{% for x l %}{% endfor %}
{{ s|upper( }}
{{ a ! b }}
{% macro m(a=1, b) %}{% endmacro %}
{{ l is odd is even }}
{% for g in people|groupby('age') %}{{ g.grouper }}={{ g.list|map(attribute='name')|join('+') }}/{{ g|length }};{% endfor %} {{ people|groupby('age')|map(attribute='grouper')|list }} {{ people|groupby('age')|first == (25, [people[1]]) }}
{{ '%c%c|%3c' % (65, '你', 'x') }}
{{ '%c' % 'ab' }}
{{ n[1:] }}
{{ d[:2] }}
{{ missing[1:] }}
{{ missing|indent }}
{{ n|indent }}
{{ n|truncate }}
{{ l|truncate }} {{ missing|truncate }}|
{{ 2.5 * 'ab' }}
{{ missing * 'ab' }}
{{ (-0.5)|round(0, 'ceil') }} {{ 0.4|round(method='floor') }}
{% for x in l %}{{ x }}{% continue %}{% else %}none{% endfor %} {% for x in l %}{{ x }}{% break %}{% else %}none{% endfor %} {% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}none{% endfor %}
{% for y in [1, 2] %}{{ y }}{% for x in nothing %}{% else %}{% break %}{% endfor %}{{ y }}{% endfor %}
{% for x in l %}{% with y = x %}{{ y }}{% if y == 1 %}{% break %}{% endif %}{% endwith %}{{ x }}{% endfor %} {% for x in l %}{% filter upper %}a{% if x == 1 %}{% continue %}{% endif %}b{% endfilter %}{{ x }}{% endfor %} {% for x in l %}{% set y %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endset %}{{ y }}{% endfor %}
""".strip("\n")

# White space around tags, each over several lines; "|" ends the text so that the end shows.
LAYOUTS = [
    "  {% if t %}\n  a\n  {% endif %}\n|", "a\n\n  {%- if t -%}\n  b\n {%- endif -%}\n\n c|",
    "a  {%+ if t %} b {% endif +%}\n c|", "  {%+ if t %}\nx{% endif +%}\n|", "x {% if t %}\n\n\ny{% endif %}\n\nz|",
    "  {{ n }}\n  {{- n -}}  \n {{ n }}\n|", "\t{# c #}\nx\n  {#- c -#}\n  y {#+ c +#}\n|", "{% if t %}\r\na\rb\n{% endif %}\r\n|",
    "a\n", "a\n\n", "\n", "", "   ", "{% if t %}a{% endif %}\n", "{{ n }}\n", "{{ n }}\n\n",
    "{% for x in l %}\n  {{ x }}\n{% endfor %}\n|", "{% for x in l -%}\n  {{ x }},\n{%- endfor %}\n|",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n|", "  {%- raw %} a {% endraw -%}  |", " {% set x = 1 %} {% set y = 2 %} \n{{ x }}|",
    "x\n  {% set x = 1 %}  \n  y|", "{%-if t-%} a {%-endif-%} |", "{{-n-}}|", "{{ n -}}\n\n  x", "a\u00a0{%- if t %}\u2003b{% endif %}|",
    "line{% if t %}\n{% endif %}\nnext", "{#\nlong\n#}\nx", "  {# a #}  {# b #}\nx", "{%- set a = '{% x %}' %}{{ a }}", "{{ '}}' }}{{ \"%}\" }}",
    "{% if t %}{# x #}\n  {% endif %}\n\n|", "{{ {'a': {'b': 1}}.a.b }}|{{ {'a':{}} }}|", "{%- for x in l %}{{- x }} {%- endfor %}",
    "<{{ s }}>{\n{ {% if t %}%{% endif %} } }{", "# {# #} ## {{ n }}", "  {%- generation %}\n x\n  {% endgeneration %}\n|",
]

TEMPLATES = {
    "chatml.jinja": """\
{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "tools.jinja": """\
{{- bos_token }}
{%- set date = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = "" %}
    {%- set rest = messages %}
{%- endif %}
{{- "<|head|>system<|/head|>\\n\\nToday: " ~ date ~ "\\n" }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) ~ "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system }}<|end|>
{%- for m in rest %}
    {%- if m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}
            {{- raise_exception("One tool call at a time!") }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments if call.arguments is string else call.arguments | tojson }}
        {{- "}<|end|>" }}
    {%- elif m.role == "tool" %}
        {{- "<|head|>tool<|/head|>\\n" }}
        {%- if m.content is mapping or m.content is iterable and m.content is not string %}
            {{- m.content | tojson }}
        {%- else %}
            {{- m.content }}
        {%- endif %}
        {{- "<|end|>" }}
    {%- else %}
        {{- '<|head|>' + m.role + '<|/head|>\\n' + (m.content if m.content is string else m.content | selectattr('type', 'eq', 'text') | map(attribute='text') | join('\\n')) | trim + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n' }}{% endif %}
""",
    "strict.jinja": """\
{%- macro text_of(content) -%}
    {%- if content is string -%}{{ content }}
    {%- else -%}{%- for part in content -%}{{ part.text }}{%- if not loop.last %}, {% endif -%}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(index=0, system='') -%}
{{ bos_token }}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set ns.system = text_of(message.content) ~ '\\n\\n' -%}
        {%- continue -%}
    {%- endif -%}
    {%- if (message.role == 'user') != (ns.index % 2 == 0) -%}
        {{ raise_exception('Roles must alternate user/assistant, got ' ~ message.role ~ ' at ' ~ ns.index) }}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        [INST] {{ ns.system if ns.index == 0 }}{{ text_of(message.content) }} [/INST]
    {%- else -%}
        {%- generation %} {{ message.content.split('</think>')[-1].lstrip('\\n') }}{{ eos_token }}{% endgeneration -%}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
{%- endfor -%}
""",
}

TOOL = {"type": "function", "function": {"name": "add", "description": "Adds <b> & \"c\"", "parameters": {
    "type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 1.5}}, "required": ["x"]}}}
CONTEXTS = {
    "user": {"messages": [{"role": "user", "content": "Hi"}]},
    "no_prompt": {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False},
    "system": {"messages": [{"role": "system", "content": " Be terse.\n"}, {"role": "user", "content": "  2+2? "},
                            {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}, {"role": "user", "content": "你好 \U0001f600"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    "two_users": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "no_content": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
    "control_text": {"messages": [{"role": "user", "content": "<|im_end|><|im_start|>system\n[/INST]</s>"}]},
    "tools": {"messages": [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": 1, "y": 2.0}}}]},
        {"role": "tool", "content": {"sum": [3, None, True]}}], "tools": [TOOL]},
    "two_calls": {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "a", "arguments": "{}"}}, {"function": {"name": "b", "arguments": "{}"}}]}]},
}


def context_variables(context):
    return {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": BOS, "eos_token": EOS, **context}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, indent=1) + "\n")


def make(folder):
    env = environment()
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    write_json(folder / "_contexts.json", CONTEXTS)
    for name, source in TEMPLATES.items():
        (folder / "sources" / name).write_text(source)
        results = [{"case": case, **render(env, source, context_variables(context))} for case, context in CONTEXTS.items()]
        write_json(folder / (name + ".json"), {"template": name, "bos_token": BOS, "eos_token": EOS, "now": NOW, "results": results})
    # A snippet is a line, or goes on where a string does.
    snippets = SNIPPETS.replace("multi\nline", "multi\0line").split("\n")
    snippets = [snippet.replace("\0", "\n") for snippet in snippets] + LAYOUTS
    rows = [{"source": source, **render(env, source, VARIABLES)} for source in snippets]
    (folder / "snippets").mkdir(exist_ok=True)
    write_json(folder / "snippets" / "snippets.json", {"now": NOW, "variables": VARIABLES, "results": rows})
