"""Parts of ptxrun.Kernel: checks of a module before it runs, and measurements while it does."""

from __future__ import annotations

import re

import numpy as np

from bench.ptx.ptxparts import SPECIAL, Instruction


class StaticChecks:
    """Of registers: read before written, in a product too early, touched while a product is in flight."""

    def _uses(self, i: Instruction) -> tuple[set, set]:
        """Registers that an instruction reads and writes."""
        find = lambda text: {r for r in re.findall(r"%[\w.]+", text) if r in self.module.registers}  # noqa: E731
        if not i.operands:
            return set(), set()
        no_result = i.parts[0] in ("st", "stmatrix", "bar", "bra", "cp") or i.op.startswith("wgmma.wait")
        written = set() if no_result else find(i.operands[0])
        read = find(" ".join(i.operands if no_result else i.operands[1:]))
        if i.guard:
            read |= {i.guard}
        if i.op.startswith("wgmma.mma") and i.operands[3] != "0":
            read |= written
        return read, written

    def _check_registers(self) -> None:
        """Registers read on some path before they are written (a predicated write counts only after a full one)."""
        self.cta = "static"
        code = self.module.code
        everything = frozenset(self.module.registers)
        special = frozenset(n for n in everything if SPECIAL.match(n))
        inputs = {n: everything for n in range(len(self.starts))}
        inputs[0], work = special, [0]
        uses = [self._uses(i) for i in code]
        done: set = set()
        while work:
            n = work.pop()
            defined, last = set(inputs[n]), self.ends[n] - 1
            for pc in range(self.starts[n], self.ends[n]):
                if code[pc].guard is None:
                    defined |= uses[pc][1]
            for follower in self._followers(n, last):
                merged = inputs[follower] & defined
                if merged != inputs[follower] or follower not in done:
                    inputs[follower] = merged
                    done.add(follower)
                    work.append(follower)
        for n in range(len(self.starts)):
            if n and n not in done:
                continue
            defined = set(inputs[n])
            for pc in range(self.starts[n], self.ends[n]):
                missing = uses[pc][0] - defined
                if missing:
                    self.report("register read before it is written", pc, f"{sorted(missing)[:4]}")
                if code[pc].guard is None or not (uses[pc][1] - defined):
                    defined |= uses[pc][1]

    def _followers(self, n: int, last: int) -> list[int]:
        i = self.module.code[last]
        nxt = [n + 1] if n + 1 < len(self.starts) else []
        if i.parts[0] in ("ret", "exit"):
            return nxt if i.guard else []
        if i.parts[0] == "bra":
            target = self.at[self.module.labels[i.operands[0]]]
            return [target, *nxt] if i.guard else [target]
        return nxt

    def _check_products(self) -> None:
        """In program order: wgmma.fence before registers enter a product; none touched before its wait."""
        touched, flight = set(), set()
        for pc, i in enumerate(self.module.code):
            read, written = self._uses(i)
            if i.op.startswith("wgmma.fence"):
                touched.clear()
            elif i.op.startswith("wgmma.mma"):
                inputs = set(re.findall(r"%\w+", i.operands[1])) if i.operands[1].startswith("{") else set()
                if i.operands[3] != "0":
                    inputs |= written - flight
                if inputs & touched:
                    self.report("register enters a product without wgmma.fence", pc, str(sorted(inputs & touched)[:4]))
                flight |= written | inputs
            elif i.op.startswith("wgmma.wait_group"):
                if i.operands[-1] == "0":
                    flight.clear()
            else:
                if (read | written) & flight and not i.op.startswith("wgmma"):
                    late = written & flight or read & flight
                    self.report("register of a product in flight is touched", pc, str(sorted(late)[:4]))
                touched |= written


class Measurements:
    """Cycles of the 32 banks of shared memory, sectors of global memory."""

    def _measure_shared(self, kind, who, at, whole, width=None):
        """Bank cycles of one instruction: lanes are served 32, 16 or 8 at a time, by their width of access."""
        words = max(1, whole // 4)
        per = width or 32 // words
        group = who // 32 * (32 // per) + who % 32 // per
        word = (at.astype(np.int64) // 4)[:, None] + np.arange(words)
        pairs = np.unique(group[:, None] * (1 << 32) + word)
        bank = (pairs >> 32) * 32 + (pairs & 31)
        counts = np.unique(bank, return_counts=True)
        groups = counts[0] // 32
        worst = np.zeros(groups.max() + 1, np.int64)
        np.maximum.at(worst, groups, counts[1])
        self.traffic[f"{kind} cycles"] += int(worst.sum())
        # Without conflicts every group that is served takes one cycle.
        self.traffic[f"{kind} conflict-free"] += int((worst > 0).sum())
        self.traffic[f"{kind} bytes"] += int(who.size) * whole

    def _measure_global(self, pc, who, at, whole, store):
        kind = "st.global" if store else "ld.global"
        self.traffic[f"{kind} bytes"] += int(who.size) * whole
        sectors = np.unique((who // 32) * (1 << 48) + (at.astype(np.int64) >> 5))
        self.traffic[f"{kind} sectors"] += sectors.size
        self.traffic[f"{kind} instructions"] += np.unique(who // 32).size


# --- What the issued instructions are, for throughput.


def instruction_class(i: Instruction) -> str:
    """The pipe that an instruction mostly uses."""
    name, kind = i.parts[0], i.parts[-1]
    if name in ("mma", "wgmma"):
        return "tensor" if "mma" in i.op.split(".")[0] and ("m16n8k16" in i.op or "mma_async" in i.op) else "sync"
    if name in ("ld", "st"):
        return f"{name}.{i.parts[1].split('::')[0]}"
    if name in ("ldmatrix", "stmatrix"):
        return name
    if i.op.startswith("cp.async"):
        return "cp.async" if "shared" in i.op else "sync"
    if name in ("shfl", "redux"):
        return "shuffle"
    if name in ("bar", "fence"):
        return "sync"
    if name in ("ex2", "sqrt"):
        return "mufu"
    if name == "div":
        return "div.full"
    if name == "cvt":
        if kind == "f32" and i.parts[-2] == "f32":
            return "round f32"
        if "f" in (kind[0], i.parts[-2][0]):
            if "16" in kind or "16" in i.parts[-2]:
                return "cvt f16"
            return "cvt int"
        return "integer"
    if kind == "f32" and name in ("add", "sub", "mul", "fma"):
        return "fp32"
    if kind == "f32" and name in ("max", "min", "abs", "neg", "setp", "selp"):
        return "fp32 alu"
    if name == "bra" or name == "ret":
        return "branch"
    if name == "mov":
        return "mov"
    return "integer"
