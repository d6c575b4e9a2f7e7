"""A small PTX emulator: runs a kernel's PTX on the CPU, one CTA at a time, all its threads at once in numpy.

    memory = Memory()                          # address space; add() registers an array as an allocation
    kernel = Kernel(ptx_text, shared_bytes)    # parsed and translated once
    kernel.launch(memory, grid, parameters)    # runs every CTA (or those named); findings in kernel.findings

A register is one numpy array with a value per thread. Straight-line code between labels, branches and barriers
is a segment, translated to one Python function over these arrays (a second one where only some of the threads
are active). Threads that diverge are run lowest segment first; bar.sync brings them together.

Checked at every access: allocation bounds, alignment, bytes never written, and (within a CTA's shared memory)
races: a byte written by one warp and touched by another between two barriers, copies and matrix products
still in flight, generic writes that an asynchronous-proxy read has no fence for. In global memory: bytes that
more than one thread of a launch touches, at least one of them writing.

Not modelled: time, caches, ptxas, rounding of the approximate instructions (ex2, div.full, sqrt.approx are
correctly rounded here; `noise` adds random errors of their documented size).
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from bench.ptx.ptxchecks import Measurements, StaticChecks, instruction_class  # noqa: F401
from bench.ptx.ptxparts import (  # noqa: F401
    DTYPES, NEVER, POISON, SHARED_BASE, SHORT, SPECIAL, STORAGE, U8, U16, U32, U64,
    Allocation, Instruction, Memory, Module, bits, extract, flush, fma32, from_bfloat, multiply_high, shift_left, shift_right,
    to_bfloat, to_integer,
)  # fmt: skip

# name -> expression of typed operands; {0}, {1}, .. already have the instruction's type.
SIMPLE = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}",
    "not": "~{0}", "neg": "-{0}", "abs": "np.abs({0})", "shl": "shift_left({0}, {1})", "shr": "shift_right({0}, {1})",
    "bfe": "extract({0}, {1}, {2})", "mov": "{0}",
}  # fmt: skip
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}  # fmt: skip
UNORDERED = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}  # not(opposite)


class Kernel(StaticChecks, Measurements):
    """A translated PTX module and what its runs found."""

    def __init__(self, text: str, shared: int, *, tensor_core: str = "nearest", arch: int = 80, noise: int = 0,
                 measure: bool = False):  # fmt: skip
        self.module = Module(text)
        self.name, self.threads = self.module.name, self.module.threads
        self.warps = self.threads // 32
        self.shared_size, self.tensor_core, self.arch, self.measure = shared, tensor_core, arch, measure
        self.noise = np.random.default_rng(noise) if noise else None
        self.constants: list[np.ndarray] = []
        self.findings: Counter = Counter()  # (kind, where) -> how often
        self.examples: dict = {}
        self.notes: Counter = Counter()
        self.issues = np.zeros(len(self.module.code), np.int64)  # warp instructions, by instruction
        self.traffic: Counter = Counter()  # with `measure`: bytes, sectors, shared-memory cycles
        self.lane = np.arange(self.threads, dtype=np.int64)
        self._split()
        self._check_registers()
        self._check_products()

    def report(self, kind: str, pc: int, detail: str) -> None:
        key = (kind, self.module.where(pc))
        self.findings[key] += 1
        self.examples.setdefault(key, f"cta {self.cta}: {detail}")

    # Segments.

    def _split(self) -> None:
        code, starts = self.module.code, {0}
        for pc, i in enumerate(code):
            if i.parts[0] in ("bra", "ret", "exit") or i.op.startswith(("bar.sync", "barrier.sync")):
                starts.add(pc + 1)
            if i.parts[0] == "bra":
                starts.add(self.module.labels[i.operands[0]])
            if i.op.startswith(("bar.sync", "barrier.sync")):
                starts.add(pc)
        self.starts = sorted(s for s in starts if s < len(code))
        self.at = {s: n for n, s in enumerate(self.starts)}
        self.ends = [*self.starts[1:], len(code)]
        self.functions: dict = {}

    def _translate(self, segment: int, masked: bool):
        lines = ["def f(R, K, st, m):"]
        for pc in range(self.starts[segment], self.ends[segment]):
            lines += ["    " + line for line in self._emit(pc, masked)]
        scope = {name: globals()[name] for name in ("np", "fma32", "flush", "to_integer", "shift_left", "shift_right",
                 "extract", "multiply_high", "to_bfloat", "from_bfloat", "U8", "U16", "U32", "U64")}  # fmt: skip
        exec("\n".join([*lines, "    return"]), scope)  # noqa: S102
        return scope["f"]

    # Operands.

    def slot(self, name: str) -> int:
        return self.module.registers[name][0]

    def read(self, operand: str, kind: str) -> str:
        """An expression for an operand, in a numpy type."""
        if operand in self.module.registers:
            slot, width = self.module.registers[operand]
            if width == bits(kind):
                view = "" if DTYPES[kind] is STORAGE[width] else f".view(np.{DTYPES[kind].__name__})"
                return f"R[{slot}]{view}"
            assert width > bits(kind), (operand, kind)
            return f"R[{slot}].astype({SHORT['u%d' % bits(kind)]}).view(np.{DTYPES[kind].__name__})"
        if operand in ("global_smem",):
            value = np.full(self.threads, SHARED_BASE, STORAGE[bits(kind)])
        elif match := re.match(r"0([fFdD])([0-9a-fA-F]+)$", operand):
            value = np.full(self.threads, int(match[2], 16), U32 if match[1] in "fF" else U64).view(DTYPES[kind])
        elif kind == "pred":
            value = np.full(self.threads, int(operand, 0) != 0)
        else:
            wrapped = int(operand.rstrip("U"), 0) & ((1 << bits(kind)) - 1)
            value = np.full(self.threads, wrapped, STORAGE[bits(kind)]).view(DTYPES[kind])
        self.constants.append(value)
        return f"K[{len(self.constants) - 1}]"

    def write(self, name: str, expression: str, mask: str | None) -> str:
        """A statement that stores an expression of any type of the register's width."""
        slot, width = self.module.registers[name]
        store = "np.bool_" if width == 1 else SHORT[f"u{width}"]
        value = f"({expression})" + ("" if width == 1 else f".view({store})")
        return f"R[{slot}] = {value}" if mask is None else f"R[{slot}] = np.where({mask}, {value}, R[{slot}])"

    def address(self, operand: str, kind: str) -> str:
        match = re.match(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]$", operand)
        base, offset = self.read(match[1], kind), int(match[2] or "0", 0)
        return base if offset == 0 else f"{base} + {self.read(str(offset), kind)}"

    # One instruction to statements.

    def _emit(self, pc: int, masked: bool) -> list[str]:
        i = self.module.code[pc]
        mask = "m" if masked else None
        lead = []
        if i.guard is not None:
            predicate = ("~" if i.negated else "") + f"R[{self.slot(i.guard)}]"
            lead = [f"g = {predicate}" + (" & m" if masked else "")]
            mask = "g"
        if i.parts[0] in ("bra", "ret", "exit") or i.op.startswith(("bar.sync", "barrier.sync")):
            return []  # ends a segment
        return lead + self._body(pc, i, mask)

    def _body(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        name, kind, o = i.parts[0], i.parts[-1], i.operands
        if name in ("ld", "st"):
            return self._emit_memory(pc, i, mask)
        if name == "mov" and o[0].startswith("{"):
            low, high = o[0].strip("{} ").split(",")
            half = f"u{bits(kind) // 2}"
            source = self.read(o[1], f"u{bits(kind)}")
            pair = f"np.ascontiguousarray({source}).view({SHORT[half]})"
            halves = ((low.strip(), "v[0::2].copy()"), (high.strip(), "v[1::2].copy()"))
            return [f"v = {pair}", *(self.write(r, value, mask) for r, value in halves if r != "_")]
        if name == "mov" and o[1].startswith("{"):
            half = f"u{bits(kind) // 2}"
            low, high = (self.read(x.strip(), half) for x in o[1].strip("{} ").split(","))
            return [self.write(o[0], f"np.stack(({low}, {high}), 1).view({SHORT['u%d' % bits(kind)]})[:, 0]", mask)]
        if name == "cvt":
            return [self.write(o[0], self._convert(i), mask)]
        if name == "setp":
            return [self.write(o[0], self._compare(i), mask)]
        if name == "selp":
            a, b, p = self.read(o[1], kind), self.read(o[2], kind), self.read(o[3], "pred")
            return [self.write(o[0], f"np.where({p}, {a}, {b})", mask)]
        if name in ("mul", "mad", "fma", "div", "ex2", "sqrt", "max", "min"):
            return [self.write(o[0], self._arithmetic(i), mask)]
        if name in SIMPLE:
            shift = name in ("shl", "shr", "bfe")
            arguments = [self.read(x, "u32" if shift and n else kind) for n, x in enumerate(o[1:])]
            expression = SIMPLE[name].format(*arguments)
            ftz = "ftz" in i.parts
            return [self.write(o[0], f"flush({expression})" if ftz else expression, mask)]
        warp = self._emit_warp(pc, i, mask)
        if warp is None:
            raise NotImplementedError(f"{i.op} {o} at ptx line {i.line}")
        return warp

    def _arithmetic(self, i: Instruction) -> str:
        name, kind, o = i.parts[0], i.parts[-1], i.operands
        if "wide" in i.parts:
            wide = f"{kind[0]}{2 * bits(kind)}"
            cast = f"np.{DTYPES[wide].__name__}"
            product = f"{self.read(o[1], kind)}.astype({cast}) * {self.read(o[2], kind)}.astype({cast})"
            return product if name == "mul" else f"{product} + {self.read(o[3], wide)}"
        x = [self.read(operand, kind) for operand in o[1:]]
        if "ftz" in i.parts:
            x = [f"flush({one})" for one in x]
        if kind == "f32":
            out = {
                "mul": "{0} * {1}", "fma": "fma32({0}, {1}, {2})", "mad": "fma32({0}, {1}, {2})",
                "div": "st.approximate({0} / {1}, 2)", "ex2": "st.approximate(np.exp2({0}.astype(np.float64)).astype(np.float32), 2)",
                "sqrt": "st.approximate(np.sqrt({0}), 1)", "max": "np.fmax({0}, {1})", "min": "np.fmin({0}, {1})",
            }[name].format(*x)  # fmt: skip
            if "NaN" in i.parts:
                out = out.replace("np.fm", "np.m").replace("np.max(", "np.maximum(").replace("np.min(", "np.minimum(")
            return f"flush({out})" if "ftz" in i.parts else out
        if "hi" in i.parts:
            return f"multiply_high({x[0]}, {x[1]})"
        table = {"mul": "{0} * {1}", "mad": "{0} * {1} + {2}", "max": "np.maximum({0}, {1})", "min": "np.minimum({0}, {1})",
                 "div": None}  # fmt: skip
        return table[name].format(*x)

    def _compare(self, i: Instruction) -> str:
        assert len(i.parts) == 3 and len(i.operands) == 3, i.op
        kind, how = i.parts[-1], i.parts[1]
        a, b = self.read(i.operands[1], kind), self.read(i.operands[2], kind)
        if how in UNORDERED:
            return f"~({a} {COMPARE[UNORDERED[how]]} {b})"
        out = f"{a} {COMPARE[how]} {b}"
        return f"({out}) & ({a} == {a}) & ({b} == {b})" if how == "ne" and kind[0] == "f" else out

    def _convert(self, i: Instruction) -> str:
        to, source, o = i.parts[-2], i.parts[-1], i.operands
        if to == "f16x2":
            high, low = self.read(o[1], "f32"), self.read(o[2], "f32")
            return f"np.stack(({low}.astype(np.float16), {high}.astype(np.float16)), 1).view(U32)[:, 0]"
        if to == "bf16x2":
            high, low = self.read(o[1], "f32"), self.read(o[2], "f32")
            return f"np.stack((to_bfloat({low}), to_bfloat({high})), 1).view(U32)[:, 0]"
        x = self.read(o[1], source)
        if to == "bf16" or source == "bf16":
            assert {to, source} == {"bf16", "f32"}, i.op
            return f"to_bfloat({x})" if to == "bf16" else f"from_bfloat({x})"
        if "ftz" in i.parts:
            x = f"flush({x})"
        numpy = f"np.{DTYPES[to].__name__}"
        if to[0] == "f" and source[0] == "f" and to == source:
            return {"rmi": "np.floor", "rpi": "np.ceil", "rni": "np.rint", "rzi": "np.trunc"}[i.parts[1]] + f"({x})"
        if to[0] in "us" and source[0] == "f":
            rounded = {"rzi": x, "rmi": f"np.floor({x})", "rpi": f"np.ceil({x})", "rni": f"np.rint({x})"}[i.parts[1]]
            return f"to_integer({rounded}, {numpy})"
        assert to[0] != "f" or source == "f16" or "rn" in i.parts, i.op
        out = f"{x}.astype({numpy})"
        width = self.module.registers[o[0]][1]
        return out if width == bits(to) else f"{out}.astype(np.{'int' if to[0] == 's' else 'uint'}{width})"

    def approximate(self, exact: np.ndarray, ulps: int) -> np.ndarray:
        """The exact value, or with noise one up to `ulps` away."""
        if self.noise is None:
            return exact
        step = self.noise.integers(-ulps, ulps + 1, exact.shape).astype(np.int32)
        return np.where(np.isfinite(exact) & (np.abs(exact) > 1e-30), (exact.view(np.int32) + step).view(np.float32), exact)

    # Memory instructions.

    def _emit_memory(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        name, kind, o = i.parts[0], i.parts[-1], i.operands
        space = i.parts[1].split("::")[0]
        if space == "param":
            parameter = o[1].strip("[] ")
            slot, width = self.module.registers[o[0]]
            cast = f"np.{'int' if kind[0] == 's' else 'uint'}{width}"
            return [f"R[{slot}] = np.full({self.threads}, st.values['{parameter}'].view(np.{DTYPES[kind].__name__}).astype({cast})).view({SHORT['u%d' % width]})"]  # fmt: skip
        registers, address = (o[0], o[1]) if name == "ld" else (o[1], o[0])
        names = [r.strip() for r in registers.strip("{} ").split(",")]
        where = self.address(address, "u64" if space == "global" else "u32")
        size = bits(kind) // 8
        if name == "ld":
            out = [f"v = st.load_{space}({pc}, {mask}, {where}, {size}, {len(names)})"]
            return out + [self.write(r, self._fit(f"v[{n}]", size, r), mask) for n, r in enumerate(names)]
        values = ", ".join(self.read(r, f"u{8 * size}") for r in names)
        return [f"st.store_{space}({pc}, {mask}, {where}, {size}, ({values},))"]

    def _fit(self, value: str, size: int, register: str) -> str:
        width = self.module.registers[register][1]
        return value if width == 8 * size else f"{value}.astype({SHORT['u%d' % width]})"

    def select(self, mask):
        """Threads that a mask leaves: their numbers, or None if none."""
        if mask is None:
            return self.lane
        return np.flatnonzero(mask)

    def load_global(self, pc, mask, address, size, count):
        out = np.zeros((count, self.threads), STORAGE[8 * size])
        who = self.select(mask)
        if who.size:
            at = address[who]
            self._global(pc, who, at, size, count, out, None)
        return out

    def store_global(self, pc, mask, address, size, values):
        who = self.select(mask)
        if who.size:
            self._global(pc, who, address[who], size, len(values), None, values)

    def _global(self, pc, who, at, size, count, out, values):
        """A load into `out` or a store of `values` by the threads `who`."""
        whole = size * count
        if (at & U64(whole - 1)).any():
            bad = np.flatnonzero(at & U64(whole - 1))[0]
            self.report("misaligned global access", pc, f"thread {who[bad]} address {int(at[bad]):#x} of {whole} bytes")
            return
        parts, outside = self.memory.resolve(at, whole)
        if outside is not None and outside.any():
            bad = np.flatnonzero(outside)[0]
            near = max((a for a in self.memory.allocations if a.address <= int(at[bad])), key=lambda a: a.address, default=None)
            relative = f"{near.name}+{int(at[bad]) - near.address} of {near.size}" if near else hex(int(at[bad]))
            self.report("out of bounds, global", pc, f"thread {who[bad]} at {relative}, {whole} bytes; {int(outside.sum())} threads")
        if self.measure:
            self._measure_global(pc, who, at, whole, values is not None)
        for a, which in parts:
            mine, relative = who[which], (at[which] - U64(a.address)).astype(np.int64)
            element = relative // size
            granule = relative[:, None] // 2 + np.arange(max(1, whole // 2))
            me = (self.cta_number * 4096 + mine)[:, None]
            last = a.writer[granule]
            # Another thread wrote this, in another CTA or since the last barrier.
            foreign = (last != NEVER) & (last != me) & ((last // 4096 != self.cta_number) | (a.write_epoch[granule] == self.epoch))
            if out is not None:
                a.was_read = True
                for n in range(count):
                    out[n, mine] = a.words[size][element + n]
                if not a.ready[granule].all():
                    bad = np.flatnonzero(~a.ready[granule].all(1))[0]
                    self.report("read of unwritten global memory", pc, f"thread {mine[bad]} {a.name}+{relative[bad]}")
                if a.role != "in":
                    if foreign.any():
                        bad = np.flatnonzero(foreign.any(1))[0]
                        self.report("global race: read of another thread's write", pc, f"thread {mine[bad]} {a.name}+{relative[bad]}")
                    seen, place = a.reader[granule], a.reader_cta[granule]
                    stale = (place == self.cta_number) & (a.read_epoch[granule] != self.epoch)
                    a.reader[granule] = np.where((seen == NEVER) | (seen == me) | stale, me, -2)
                    a.reader[granule[a.reader[granule] != me]] = -2
                    a.reader_cta[granule] = np.where((place == NEVER) | (place == self.cta_number), self.cta_number, -3)
                    a.read_epoch[granule] = self.epoch
                continue
            if a.role == "in":
                self.report("write to an input", pc, f"thread {mine[0]} {a.name}+{relative[0]}")
                continue
            place = a.reader_cta[granule]
            race = (place == self.cta_number) & (a.reader[granule] != me) & (a.read_epoch[granule] == self.epoch)
            race |= (place != NEVER) & (place != self.cta_number)
            if race.any():
                bad = np.flatnonzero(race.any(1))[0]
                self.report("global race: write of what another thread read", pc, f"thread {mine[bad]} {a.name}+{relative[bad]}")
            a.was_written = True
            new = np.stack([v[mine] for v in values], 1)
            if foreign.any():
                same = (a.words[size][element[:, None] + np.arange(count)] == new).all()
                kind = "global bytes written twice, same value" if same else "global race: different values written"
                bad = np.flatnonzero(foreign.any(1))[0]
                (self.note if same else self.report)(kind, pc, f"thread {mine[bad]} {a.name}+{relative[bad]}")
            for n in range(count):
                a.words[size][element + n] = new[:, n]
            a.writer[granule], a.write_epoch[granule], a.ready[granule] = me, self.epoch, True
            if (a.writer[granule] != me).any():
                same = (a.words[size][element[:, None] + np.arange(count)] == new).all()
                kind = "global bytes written twice, same value" if same else "global race: different values written"
                (self.note if same else self.report)(kind, pc, f"{a.name}, within one instruction")

    def note(self, kind: str, pc: int, detail: str) -> None:
        self.notes[(kind, self.module.where(pc))] += 1

    # Shared memory, tracked by two bytes.

    def _shared_at(self, pc, who, at, whole):
        """Offsets of valid accesses, and which they are."""
        relative = at.astype(np.int64) - SHARED_BASE
        bad = (relative < 0) | (relative + whole > self.shared_size)
        if bad.any():
            n = np.flatnonzero(bad)[0]
            self.report("out of bounds, shared", pc, f"thread {who[n]} offset {relative[n]} of {self.shared_size}")
        slant = (relative & (whole - 1)) != 0
        if slant.any():
            n = np.flatnonzero(slant)[0]
            self.report("misaligned shared access", pc, f"thread {who[n]} offset {relative[n]}, {whole} bytes")
        good = ~(bad | slant)
        return (who, relative) if good.all() else (who[good], relative[good])

    def _shared_read(self, pc, who, relative, whole, lanes=True):
        granule = relative[:, None] // 2 + np.arange(whole // 2)
        warp = (who // 32)[:, None]
        if (self.s_epoch_w[granule] == NEVER).any():
            n = np.flatnonzero((self.s_epoch_w[granule] == NEVER).any(1))[0]
            self.report("read of unwritten shared memory", pc, f"thread {who[n]} offset {relative[n]}")
        if self.s_flight[granule].any():
            n = np.flatnonzero(self.s_flight[granule].any(1))[0]
            self.report("shared race: read of a copy in flight", pc, f"thread {who[n]} offset {relative[n]}")
        fresh = self.s_epoch_w[granule] == self.epoch
        writer = self.s_writer[granule]
        race = fresh & (writer // 32 != warp)
        if race.any():
            n = np.flatnonzero(race.any(1))[0]
            self.report("shared race: read of another warp's write", pc, f"thread {who[n]} offset {relative[n]}")
        if fresh.any():
            other = fresh & ~race & ((writer != who[:, None]) if lanes else True)
            if other.any():
                self.note("shared: read of another lane's write in the same warp without a barrier", pc, "")
        seen = (self.s_epoch_r[granule] == self.epoch) & (self.s_reader[granule] != warp)
        self.s_epoch_r[granule] = self.epoch
        self.s_reader[granule] = np.where(seen, -2, warp)
        self.s_reader[granule[self.s_reader[granule] != warp]] = -2

    def _shared_write(self, pc, who, relative, whole, flight=False):
        """Bookkeeping before a write; the caller stores the values."""
        granule = relative[:, None] // 2 + np.arange(whole // 2)
        warp = (who // 32)[:, None]
        if self.s_flight[granule].any() or self.s_matrix[granule].any():
            n = np.flatnonzero((self.s_flight[granule] | (self.s_matrix[granule] > 0)).any(1))[0]
            self.report("shared race: write over a copy or product in flight", pc, f"thread {who[n]} offset {relative[n]}")
        race = (self.s_epoch_r[granule] == self.epoch) & (self.s_reader[granule] != warp)
        if race.any():
            n = np.flatnonzero(race.any(1))[0]
            self.report("shared race: write of what another warp reads", pc, f"thread {who[n]} offset {relative[n]}")
        race = (self.s_epoch_w[granule] == self.epoch) & (self.s_writer[granule] // 32 != warp)
        self.raced = self.twice = bool(race.any())  # judged by the values, in _shared_twice
        self.s_epoch_w[granule], self.s_writer[granule] = self.epoch, who[:, None]
        self.twice |= bool((self.s_writer[granule] != who[:, None]).any())
        self.s_dirty[granule] = True
        if flight:
            self.s_flight[granule] = True
        return granule

    def _shared_twice(self, pc, before, after, new):
        """Two threads wrote the same bytes: a race only if the values differ."""
        if not self.twice:
            return
        changed = (after != new).any() or (self.raced and (before != new).any())
        (self.report if changed else self.note)("shared: bytes written by several threads between barriers", pc, "values differ" if changed else "")

    def load_shared(self, pc, mask, address, size, count):
        out = np.full((count, self.threads), POISON[STORAGE[8 * size]], STORAGE[8 * size])
        who = self.select(mask)
        if who.size:
            if self.measure:
                self._measure_shared("ld.shared", who, address[who], size * count)
            who, relative = self._shared_at(pc, who, address[who], size * count)
            self._shared_read(pc, who, relative, size * count)
            for n in range(count):
                out[n, who] = self.s_words[size][relative // size + n]
        return out

    def store_shared(self, pc, mask, address, size, values):
        who = self.select(mask)
        if who.size:
            if self.measure:
                self._measure_shared("st.shared", who, address[who], size * len(values))
            who, relative = self._shared_at(pc, who, address[who], size * len(values))
            index = relative[:, None] // size + np.arange(len(values))
            new = np.stack([v[who] for v in values], 1)
            self._shared_write(pc, who, relative, size * len(values))
            words = self.s_words[size]
            if self.twice:
                before = words[index]
                words[index] = new
                self._shared_twice(pc, before, words[index], new)
            else:
                words[index] = new

    # Asynchronous copies: the data moves at once, but is in flight until its group has been waited for.

    def copy_async(self, pc, mask, target, source, size, filled):
        who = self.select(mask)
        if not who.size:
            return
        if self.measure:
            self._measure_shared("cp.async", who, target[who], size)
        who, relative = self._shared_at(pc, who, target[who], size)
        taken = filled[who]
        if not ((taken == 0) | (taken == size)).all():
            self.report("partial asynchronous copy (not modelled)", pc, "")
        granule = self._shared_write(pc, who, relative, size, flight=True)
        if self.twice:
            self.report("shared: copies overlap", pc, "")
        chunk = np.zeros((size // 4, self.threads), U32)
        full = who[taken == size]
        if full.size:
            self._global(pc, full, source[full], 4, size // 4, chunk, None)
        for n in range(size // 4):
            self.s_words[4][relative // 4 + n] = chunk[n, who]
        self.open_copies.append((granule, who))

    def copy_commit(self):
        self.copy_groups.append(self.open_copies)
        self.open_copies = []

    def copy_wait(self, left: int):
        done = self.copy_groups[: max(0, len(self.copy_groups) - left)]
        self.copy_groups = self.copy_groups[len(done) :]
        for group in done:
            for granule, who in group:
                self.s_flight[granule] = False
                self.s_epoch_w[granule], self.s_writer[granule] = self.epoch, who[:, None]

    # Instructions of a whole warp. With a mask they need whole warps.

    def _emit_warp(self, pc: int, i: Instruction, mask: str | None) -> list[str] | None:
        op, o = i.op, i.operands
        vector = lambda text: [x.strip() for x in text.strip("{} ").split(",")]  # noqa: E731
        if op.startswith("cp.async.commit"):
            return ["st.copy_commit()"]
        if op.startswith("cp.async.wait"):
            return [f"st.copy_wait({o[0] if o else 0})"]
        if op.startswith("cp.async"):
            size = int(o[2], 0)
            filled = self.read(o[3], "u32") if len(o) > 3 else self.read(o[2], "u32")
            return [f"st.copy_async({pc}, {mask}, {self.address(o[0], 'u32')}, {self.address(o[1], 'u64')}, {size}, {filled})"]
        if op.startswith("fence.proxy.async"):
            return [f"st.fence_proxy({pc}, {mask})"]
        if op.startswith(("wgmma.fence", "wgmma.commit_group")):
            return [f"st.wgmma_commit({pc}, {mask})"] if "commit" in op else []
        if op.startswith("wgmma.wait_group"):
            return [f"st.wgmma_wait({o[-1]})"]
        if op.startswith("shfl.sync"):
            shift, clamp = self.read(o[2], "u32"), self.read(o[3], "u32")
            return [self.write(o[0], f"st.shuffle({pc}, {mask}, '{i.parts[2]}', {self.read(o[1], 'b32')}, {shift}, {clamp}, {self.read(o[4], 'u32')})", mask)]  # fmt: skip
        if op.startswith("redux.sync"):
            kind = i.parts[-1]
            return [self.write(o[0], f"st.reduce({pc}, {mask}, np.{i.parts[2]}imum, {self.read(o[1], kind)})", mask)]
        if op.startswith("ldmatrix"):
            names = vector(o[0])
            out = [f"v = st.load_matrix({pc}, {mask}, {self.address(o[1], 'u32')}, {len(names)}, {'trans' in i.parts})"]
            return out + [self.write(r, f"v[{n}]", mask) for n, r in enumerate(names)]
        if op.startswith("stmatrix"):
            values = ", ".join(self.read(r, "u32") for r in vector(o[1]))
            return [f"st.store_matrix({pc}, {mask}, {self.address(o[0], 'u32')}, ({values},), {'trans' in i.parts})"]
        if op == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32":
            a, b, c = ("(" + ", ".join(self.read(r, "u32") for r in vector(x)) + ",)" for x in o[1:4])
            out = [f"v = st.mma({pc}, {mask}, {a}, {b}, {c})"]
            return out + [self.write(r, f"v[{n}]", mask) for n, r in enumerate(vector(o[0]))]
        if match := re.match(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.f16\.f16$", op):
            names, columns = vector(o[0]), int(match[1])
            c = "(" + ", ".join(self.read(r, "u32") for r in names) + ",)"
            if o[1].startswith("{"):
                a, transposed_a, scales, transposed_b = "(" + ", ".join(self.read(r, "u32") for r in vector(o[1])) + ",)", 0, o[4:6], int(o[6])
            else:
                a, transposed_a, scales, transposed_b = self.read(o[1], "u64"), int(o[6]), o[4:6], int(o[7])
            assert [int(s) for s in scales] == [1, 1], o
            out = [f"v = st.wgmma({pc}, {mask}, {a}, {transposed_a}, {self.read(o[2], 'u64')}, {transposed_b}, {self.read(o[3], 'pred')}, {c}, {columns})"]  # fmt: skip
            return out + [self.write(r, f"v[{n}]", mask) for n, r in enumerate(names)]
        return None

    def _whole(self, pc, mask, group=32):
        """Numbers of the active groups of threads (warps, warpgroups); a partly active one is a finding."""
        if mask is None:
            return np.arange(self.threads // group)
        part = mask.reshape(-1, group)
        if (part.any(1) & ~part.all(1)).any():
            self.report("warp instruction with inactive lanes", pc, "")
        return np.flatnonzero(part.any(1))

    def shuffle(self, pc, mask, mode, value, shift, clamp, members):
        active = self._whole(pc, mask)
        if (members.view(np.int32) != -1).any() or not (clamp == 31).all():
            self.report("shuffle of part of a warp (not modelled)", pc, "")
        lane = np.arange(self.threads, dtype=np.int64) & 31
        n = shift.astype(np.int64)
        source = {"bfly": lane ^ n, "idx": n & 31, "up": lane - n, "down": lane + n}[mode]
        source = np.where((source < 0) | (source > 31), lane, source)
        return value[(self.lane & ~31) + source]

    def reduce(self, pc, mask, function, value):
        self._whole(pc, mask)
        return np.repeat(function.reduce(value.reshape(-1, 32), 1), 32)

    def load_matrix(self, pc, mask, address, count, transposed):
        """Each of `count` 8x8 matrices of b16: eight lanes give the addresses of its rows."""
        active = self._whole(pc, mask)
        out = np.zeros((count, self.threads), U32)
        lanes = (active[:, None] * 32 + np.arange(8 * count)).reshape(-1)
        if self.measure:
            self._measure_shared("ldmatrix", lanes, address[lanes], 16, width=8)
        who, relative = self._shared_at(pc, lanes, address[lanes], 16)
        if who.size != lanes.size:
            return out
        self._shared_read(pc, who, relative, 16, lanes=False)
        rows = self.s_words[2][relative[:, None] // 2 + np.arange(8)].reshape(-1, count, 8, 8)  # [warp, matrix, row, col]
        if transposed:
            rows = rows.swapaxes(2, 3)
        words = np.ascontiguousarray(rows).view(U32).reshape(-1, count, 32)  # lane = row * 4 + pair
        for n in range(count):
            out[n].reshape(-1, 32)[active] = words[:, n]
        return out

    def store_matrix(self, pc, mask, address, values, transposed):
        active, count = self._whole(pc, mask), len(values)
        rows = np.stack([v.reshape(-1, 32)[active] for v in values], 1).view(U16).reshape(-1, count, 8, 8)
        if transposed:
            rows = rows.swapaxes(2, 3)
        lanes = (active[:, None] * 32 + np.arange(8 * count)).reshape(-1)
        if self.measure:
            self._measure_shared("stmatrix", lanes, address[lanes], 16, width=8)
        who, relative = self._shared_at(pc, lanes, address[lanes], 16)
        if who.size != lanes.size:
            return
        index, new = relative[:, None] // 2 + np.arange(8), rows.reshape(-1, 8)
        self._shared_write(pc, who, relative, 16)
        before = self.s_words[2][index]
        self.s_words[2][index] = new
        self._shared_twice(pc, before, self.s_words[2][index], new)

    # Tensor cores. Fragments: lane = 4 * group + pair.

    def fragment_a(self, registers, active):
        """[warp, 16, 16] from four registers of two halves."""
        halves = np.stack([r.reshape(-1, 32)[active] for r in registers], 1).view(np.float16)
        halves = halves.reshape(-1, 2, 2, 8, 4, 2)  # warp, column half, row half, group, pair, half
        return halves.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 16, 16)

    def fragment_b(self, registers, active):
        """[warp, 16, 8] from two registers of two halves."""
        halves = np.stack([r.reshape(-1, 32)[active] for r in registers], 1).view(np.float16)
        return halves.reshape(-1, 2, 8, 4, 2).transpose(0, 1, 3, 4, 2).reshape(-1, 16, 8)

    def fragment_c(self, registers, active):
        """[warp, 16, 8 n] from 4 n registers."""
        values = np.stack([r.reshape(-1, 32)[active] for r in registers], 1).view(np.float32)
        values = values.reshape(len(active), -1, 2, 2, 8, 4)  # warp, block of 8 columns, row half, column, group, pair
        return values.transpose(0, 2, 4, 1, 5, 3).reshape(len(active), 16, -1)

    def unfragment_c(self, matrix, active):
        """The registers of fragment_c."""
        blocks = matrix.shape[2] // 8
        values = matrix.reshape(-1, 2, 8, blocks, 4, 2).transpose(0, 3, 1, 5, 2, 4).reshape(-1, 4 * blocks, 32)
        out = np.zeros((4 * blocks, self.warps, 32), np.float32)
        out[:, active] = values.transpose(1, 0, 2)
        return out.reshape(4 * blocks, self.threads).view(U32)

    def dot(self, a, b, c):
        """c + a @ b with one rounding, or truncated as tensor cores are reported to."""
        a, b = a.astype(np.float64), b.astype(np.float64)
        if self.tensor_core == "nearest":
            return (a @ b + c).astype(np.float32)
        step = 8 if self.arch < 90 else 16
        for k in range(0, a.shape[-1], step):
            terms = a[..., :, k : k + step, None] * b[..., None, k : k + step, :]  # [.., M, k, N]
            terms = np.concatenate((terms, c.astype(np.float64)[..., :, None, :]), -2)
            grid = np.ldexp(1.0, np.frexp(np.abs(terms).max(-2))[1] - 25)
            total = (np.trunc(terms / grid[..., None, :]) * grid[..., None, :]).sum(-2)
            unit = np.ldexp(1.0, np.frexp(np.abs(total))[1] - 24)
            c = (np.trunc(total / unit) * unit).astype(np.float32)
        return c

    def mma(self, pc, mask, a, b, c):
        active = self._whole(pc, mask)
        out = self.dot(self.fragment_a(a, active), self.fragment_b(b, active), self.fragment_c(c, active))
        return self.unfragment_c(out, active)

    # Warpgroup products, whose B (and perhaps A) lies in shared memory as a descriptor says.

    def fence_proxy(self, pc, mask):
        """Generic writes that the executing threads made, or that a barrier made visible, become visible."""
        mine = np.ones(self.threads, bool) if mask is None else mask
        self.s_dirty &= ~((self.s_epoch_w < self.epoch) | mine[self.s_writer])

    def operand(self, pc, descriptor, outer, contiguous_outer):
        """The [16, outer] matrix at a descriptor: `outer` (N or M) by k; which dimension is contiguous varies."""
        d = int(descriptor)
        start, leading, stride = (d & 0x3FFF) << 4, (d >> 16 & 0x3FFF) << 4, (d >> 32 & 0x3FFF) << 4
        if d >> 49 & 7:
            self.report("descriptor with a base offset (not modelled)", pc, hex(d))
        span = {0: 16, 1: 128, 2: 64, 3: 32}[d >> 62]
        k, n = np.arange(16)[:, None], np.arange(outer)[None, :]
        if contiguous_outer:
            per = span // 2
            block = n // per
            if span == 16:
                offset = n % 8 * 2 + n // 8 * stride + k % 8 * 16 + k // 8 * leading
            else:
                offset = n % per * 2 + block * leading + k % 8 * span + k // 8 * stride
        else:
            chunk = leading if span == 16 else 16
            offset = n % 8 * span + n // 8 * stride + k % 8 * 2 + k // 8 * chunk
        address = start + offset
        address = address ^ ((address >> 7 & (span // 16 - 1)) << 4)
        relative = (address - SHARED_BASE).reshape(-1)
        if (relative < 0).any() or (relative + 2 > self.shared_size).any():
            self.report("out of bounds, shared (descriptor)", pc, f"{hex(d)}")
            relative = np.clip(relative, 0, self.shared_size - 2)
        g = relative // 2
        if (self.s_epoch_w[g] == NEVER).any():
            self.report("read of unwritten shared memory", pc, f"descriptor {d:#x}")
        if self.s_flight[g].any():
            self.report("shared race: read of a copy in flight", pc, f"descriptor {d:#x}")
        if (self.s_epoch_w[g] == self.epoch).any():
            self.report("shared race: read of another warp's write", pc, f"descriptor {d:#x}")
        if self.s_dirty[g].any():
            self.report("no proxy fence between a write and a matrix product", pc, f"descriptor {d:#x}")
        self.s_matrix[g] += 1
        self.open_matrix.append(g)
        if self.measure:
            self.traffic["wgmma shared bytes"] += 2 * g.size
        return self.s_words[2][g].view(np.float16).reshape(16, outer)

    def wgmma(self, pc, mask, a, transposed_a, b, transposed_b, accumulate, c, columns):
        out = np.zeros((len(c), self.threads), U32)
        for group in self._whole(pc, mask, 128):
            active = np.arange(4 * group, 4 * group + 4)
            first = slice(128 * group, 128 * group + 128)
            if len(np.unique(b[first])) != 1 or len(np.unique(accumulate[first])) != 1:
                self.report("descriptor or scale differs within a warpgroup", pc, "")
            right = self.operand(pc, b[128 * group], columns, bool(transposed_b))
            if isinstance(a, tuple):
                left = self.fragment_a(a, active).reshape(64, 16)
            else:
                left = self.operand(pc, a[128 * group], 64, bool(transposed_a)).T
            total = self.fragment_c(c, active).reshape(64, columns)
            if not accumulate[128 * group]:
                total = np.zeros_like(total)
            value = self.dot(left, right, total).reshape(4, 16, columns)
            out |= self.unfragment_c(value, active)
        return out

    def wgmma_commit(self, pc, mask):
        self.matrix_groups.append(self.open_matrix)
        self.open_matrix = []

    def wgmma_wait(self, left):
        done = self.matrix_groups[: max(0, len(self.matrix_groups) - int(left))]
        self.matrix_groups = self.matrix_groups[len(done) :]
        for one in done:
            for g in one:
                self.s_matrix[g] -= 1
                self.s_epoch_r[g], self.s_reader[g] = self.epoch, -2  # read by four warps

    # Running.

    def launch(self, memory: Memory, grid, parameters, ctas=None) -> None:
        """Run the CTAs of a grid (x, y, z), or those listed; parameters in the entry's order, numbers."""
        names = self.module.parameters
        assert len(parameters) == len(names), (len(parameters), len(names))
        self.memory, self.values = memory, {}
        for (name, kind), value in zip(names, parameters, strict=True):
            plain = DTYPES["b64" if kind.endswith("64") else kind]
            raw = np.array([value if kind[0] == "f" else int(value) & ((1 << bits(kind)) - 1)], plain)
            self.values[name] = raw
        for allocation in memory.allocations:
            allocation.new_launch()
        x, y, z = (*grid, 1, 1)[:3]
        for cta in ctas if ctas is not None else [(a, b, c) for c in range(z) for b in range(y) for a in range(x)]:
            with np.errstate(all="ignore"):
                self._run(cta, (x, y, z))

    def _run(self, cta, grid) -> None:
        self.cta, self.cta_number, self.epoch = cta, cta[0] + grid[0] * (cta[1] + grid[1] * cta[2]), 0
        padded = -(-max(self.shared_size, 16) // 16) * 16
        self.smem = np.full(padded, 0xFF, U8)
        self.s_words = {2: self.smem.view(U16), 4: self.smem.view(U32), 8: self.smem.view(U64)}
        n = padded // 2
        self.s_epoch_w, self.s_writer = np.full(n, NEVER, np.int64), np.zeros(n, np.int64)
        self.s_epoch_r, self.s_reader = np.full(n, NEVER, np.int64), np.full(n, NEVER, np.int64)
        self.s_flight, self.s_dirty, self.s_matrix = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, np.int64)
        self.open_copies, self.copy_groups, self.open_matrix, self.matrix_groups = [], [], [], []
        registers = [np.full(self.threads, POISON[STORAGE[width]], STORAGE[width]) for _, width in self.module.registers.values()]
        special = {"%tid.x": self.lane, "%laneid": self.lane & 31, "%warpid": self.lane // 32, "%ntid.x": self.threads}
        for axis, value in zip("xyz", cta, strict=True):
            special[f"%ctaid.{axis}"] = value
        for axis, value in zip("xyz", grid, strict=True):
            special[f"%nctaid.{axis}"] = value
        for name, (slot, _) in self.module.registers.items():
            if SPECIAL.match(name):
                registers[slot][:] = special.get(name, 0)
        self.R = registers
        code = self.module.code
        groups: dict[int, np.ndarray | None] = {0: None}
        waiting: dict[int, np.ndarray | None] = {}
        while groups or waiting:
            if not groups:
                if len(waiting) > 1:
                    self.report("barrier reached at different places", self.starts[min(waiting)], str(sorted(waiting)))
                self.epoch += 1
                for n, mask in waiting.items():
                    self._join(groups, n + 1, mask)
                waiting = {}
                continue
            n = min(groups)
            mask = groups.pop(n)
            first, last = self.starts[n], self.ends[n] - 1
            active = self.warps if mask is None else int(mask.reshape(-1, 32).any(1).sum())
            self.issues[first : last + 1] += active
            if code[first].op.startswith(("bar.sync", "barrier.sync")):
                assert len(code[first].operands) == 1
                self._join(waiting, n, mask)
                continue
            key = (n, mask is not None)
            if key not in self.functions:
                self.functions[key] = self._translate(n, mask is not None)
            self.functions[key](registers, self.constants, self, mask)
            i = code[last]
            if i.parts[0] not in ("bra", "ret", "exit"):
                self._join(groups, n + 1, mask)
                continue
            live = np.ones(self.threads, bool) if mask is None else mask
            taken = live
            if i.guard:
                value = registers[self.slot(i.guard)]
                taken = live & (~value if i.negated else value)
            if i.parts[0] == "bra" and taken.any():
                self._join(groups, self.at[self.module.labels[i.operands[0]]], self._plain(taken))
            rest = live & ~taken
            if rest.any():
                self._join(groups, n + 1, self._plain(rest))
        if self.open_copies or self.copy_groups:
            self.note("asynchronous copies not waited for at the end", last, "")

    @staticmethod
    def _plain(mask):
        return None if mask.all() else mask

    def _join(self, groups, n, mask) -> None:
        if n not in groups:
            groups[n] = mask
        elif mask is not None and groups[n] is not None:
            groups[n] = self._plain(groups[n] | mask)
        else:
            groups[n] = None
