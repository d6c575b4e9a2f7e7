"""The PTX machine itself: its instructions against values worked out by hand, its checks on programs with a fault."""

import struct

import numpy as np
import pytest

from bench.ptx import __main__, cost, one_image
from bench.ptx.fragments import matrix_a, rounded_product, truncated_product
from bench.ptx.global_memory import Memory
from bench.ptx.machine import Kernel
from bench.ptx.sass import MachineCode
from bench.ptx.traffic import Traffic

NAN = float("nan")
FRAME = """
.version 8.7
.target sm_90a
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0,
    .param .u64 .ptr .global .align 1 kernel_param_1
)
.reqntid {threads}
{{
    .reg .pred %p<8>;
    .reg .b16 %rs<8>;
    .reg .b32 %r<40>;
    .reg .b64 %rd<16>;
    ld.param.b64 %rd1, [kernel_param_0];
    ld.param.b64 %rd2, [kernel_param_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
{body}
    ret;
}}
"""
IN, OUT = "ld.global.b32 {0}, [%rd4+{1}];", "st.global.b32 [%rd5], {0};"


def run(body, source, threads=32, shared=0, out=None, grid=(1,), **options):
    """A program over `source` (its thread's word at %rd4) and an output (at %rd5): what it wrote, its kernel."""
    memory = Memory()
    result = np.zeros(threads if out is None else out, np.uint32)
    addresses = [memory.add("source", np.ascontiguousarray(source)), memory.add("out", result, "out")]
    kernel = Kernel(FRAME.format(threads=threads, body="\n".join(body)), shared, **options)
    kernel.launch(memory, grid, addresses)
    memory.fetch()
    return result, kernel


def word(value):
    """A number as 32 bits: whole ones as they are, others as float32."""
    return struct.unpack("<I", struct.pack("<f", value))[0] if isinstance(value, float) else value & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("op", "operands", "expected"),
    [
        ("add.s32", (0x7FFFFFFF, 1), 0x80000000),
        ("mad.lo.s32", (-3, 5, 7), -8),
        ("mul.hi.u32", (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE),
        ("mul.hi.s32", (-1, 2), -1),
        ("div.s32", (-7, 2), -3),
        ("rem.s32", (-7, 2), -1),
        ("max.s32", (-7, 2), 2),
        ("max.u32", (-7, 2), -7),
        ("shl.b32", (1, 32), 0),
        ("shr.s32", (0x80000000, 40), -1),
        ("shr.u32", (0x80000000, 31), 1),
        ("bfe.u32", (0xF00, 8, 4), 0xF),
        ("bfe.s32", (0xF00, 8, 4), -1),
        ("prmt.b32", (0x33221100, 0x77665544, 0x7530), 0x77553300),
        ("prmt.b32", (0x80, 0, 0x8), 0x808080FF),  # byte 0 three times, and its sign
        ("shf.l.wrap.b32", (0x80000001, 0x12345678, 36), 0x23456788),
        ("shf.r.clamp.b32", (0x80000001, 0x12345678, 40), 0x12345678),
        ("add.f32", (1.0, 2.0**-24), 1.0),  # a tie goes to even
        ("add.ftz.f32", (1e-40, 0.0), 0.0),
        ("fma.rn.f32", (1 + 2.0**-12, 1 + 2.0**-12, -(1 + 2.0**-11)), 2.0**-24),  # 0 with two roundings
        ("min.f32", (NAN, 1.0), 1.0),
        ("min.NaN.f32", (NAN, 1.0), NAN),
        ("div.full.f32", (1.0, 4.0), 0.25),
        ("ex2.approx.ftz.f32", (3.0,), 8.0),
        ("lg2.approx.f32", (8.0,), 3.0),
        ("rsqrt.approx.f32", (16.0,), 0.25),
        ("fma.rn.f16x2", (0x40003C00, 0x42003C00, 0x3C003C00), 0x47004000),  # 2 * 3 + 1 and 1 * 1 + 1
        ("cvt.rzi.s32.f32", (-2.75,), -2),
        ("cvt.rni.s32.f32", (2.5,), 2),
        ("cvt.rzi.s32.f32", (3e9,), 0x7FFFFFFF),
        ("cvt.rn.f32.s32", (-3,), -3.0),
        ("cvt.rn.f16x2.f32", (1.0, 2.0), 0x3C004000),  # the first operand is the upper half
        ("cvt.rn.bf16x2.f32", (1.0, 1 + 2.0**-8 + 2.0**-20), 0x3F803F81),
        ("cvt.rna.tf32.f32", (1 + 2.0**-11,), 1 + 2.0**-10),
    ],
)  # fmt: skip
def test_arithmetic(op, operands, expected):
    source = np.array([word(value) for value in operands] + [0] * 32, np.uint32)
    names = ["%r2", "%r3", "%r4"][: len(operands)]
    loads = [f"ld.global.b32 {name}, [%rd1+{4 * n}];" for n, name in enumerate(names)]
    result, kernel = run([*loads, f"{op} %r5, {', '.join(names)};", OUT.format("%r5")], source)
    assert not kernel.findings.violations
    if expected != expected:
        assert np.isnan(result.view(np.float32)).all()
    else:
        assert set(result.tolist()) == {word(expected)}


def test_paired_arithmetic():
    """fma.rn.f32x2: 2 * 3 + 1 and 5 * 7 + 1."""
    source = np.array([2.0, 5.0, 3.0, 7.0, 1.0, 1.0] + [0.0] * 32, np.float32)
    body = [f"ld.global.b64 %rd{6 + n}, [%rd1+{8 * n}];" for n in range(3)]
    body += ["fma.rn.f32x2 %rd9, %rd6, %rd7, %rd8;", "mov.b64 {%r2, %r3}, %rd9;", "sub.f32 %r4, %r3, %r2;"]
    result, _ = run([*body, OUT.format("%r4")], source)
    assert set(result.view(np.float32).tolist()) == {36.0 - 7.0}


def test_logic_of_three_words_is_its_truth_table():
    source = np.array([0b11110000, 0b11001100, 0b10101010] + [0] * 32, np.uint32)
    loads = [f"ld.global.b32 %r{n + 2}, [%rd1+{4 * n}];" for n in range(3)]
    result, _ = run([*loads, "lop3.b32 %r5, %r2, %r3, %r4, 0xE8;", OUT.format("%r5")], source)
    assert result[0] == 0xE8


def test_comparison_with_nan_and_selection():
    source = np.array([word(NAN)] * 16 + [word(1.0)] * 16, np.uint32)
    body = [IN.format("%r2", 0), "setp.neu.f32 %p1, %r2, 0f3F800000;", "setp.ne.f32 %p2, %r2, 0f3F800000;"]
    body += ["selp.b32 %r3, 2, 0, %p1;", "selp.b32 %r4, 1, 0, %p2;", "or.b32 %r5, %r3, %r4;", OUT.format("%r5")]
    result, _ = run(body, source)
    assert result.tolist() == [2] * 16 + [0] * 16


@pytest.mark.parametrize(
    ("body", "lanes"),
    [
        ("shfl.sync.bfly.b32 %r3, %r2, 5, 31, -1;", [n ^ 5 for n in range(32)]),
        ("shfl.sync.up.b32 %r3, %r2, 1, 0, -1;", [0, *range(31)]),
        ("shfl.sync.down.b32 %r3, %r2, 2, 31, -1;", [*range(2, 32), 30, 31]),
        ("shfl.sync.idx.b32 %r3, %r2, 7, 31, -1;", [7] * 32),
        ("redux.sync.max.u32 %r3, %r2, -1;", [31] * 32),
    ],
)
def test_exchange_within_a_warp(body, lanes):
    result, kernel = run([IN.format("%r2", 0), body, OUT.format("%r3")], np.arange(32, dtype=np.uint32))
    assert result.tolist() == lanes
    assert not kernel.findings.violations


def test_lanes_part_and_meet_again():
    """Odd lanes go round a loop as often as their number says, even lanes jump over it."""
    body = ["mov.b32 %r2, 0;", "and.b32 %r3, %r1, 1;", "setp.eq.s32 %p1, %r3, 0;", "@%p1 bra $L__out;"]
    body += ["$L__loop:", "add.s32 %r2, %r2, 1;", "setp.lt.s32 %p2, %r2, %r1;", "@%p2 bra $L__loop;"]
    result, kernel = run([*body, "$L__out:", OUT.format("%r2")], np.zeros(32, np.uint32))
    assert result.tolist() == [n if n % 2 else 0 for n in range(32)]
    first, last = kernel.program.loops()[0]
    assert kernel.issues[first] == kernel.issues[last] == 31


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    """Lane 4 r + p holds entries 2 p and 2 p + 1 of row r of the 8x8 matrix, or of its transpose."""
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    body = ["mov.b32 %r6, global_smem;", "shl.b32 %r7, %r1, 2;", "add.s32 %r7, %r6, %r7;", IN.format("%r2", 0)]
    body += ["st.shared.b32 [%r7], %r2;", "bar.sync 0;", "shl.b32 %r8, %r1, 4;", "add.s32 %r8, %r6, %r8;"]
    trans = ".trans" if transposed else ""
    body += [f"ldmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 {{%r9}}, [%r8];", OUT.format("%r9")]
    result, kernel = run(body, matrix.view(np.uint32), shared=128)
    want = (matrix.T if transposed else matrix).reshape(32, 2)
    assert result.view(np.uint16).reshape(32, 2).tolist() == want.tolist()
    assert not kernel.findings.violations


def test_mma():
    """D = A B + C, each entry where the figures of the PTX manual have it."""
    random, lane = np.random.default_rng(0), np.arange(32)
    a, b, c = (random.integers(-4, 5, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
    group, pair = lane // 4, 2 * (lane % 4)
    words = []
    for i in range(4):
        row, column = group + 8 * (i % 2), pair + 8 * (i // 2)
        words.append(np.stack((a[row, column], a[row, column + 1]), 1).astype(np.float16).view(np.uint32)[:, 0])
    for i in range(2):
        words.append(
            np.stack((b[pair + 8 * i, group], b[pair + 8 * i + 1, group]), 1).astype(np.float16).view(np.uint32)[:, 0]
        )
    for i in range(4):
        words.append(c[group + 8 * (i // 2), pair + i % 2].view(np.uint32))
    body = [IN.format(f"%r{10 + n}", 128 * n) for n in range(10)]
    body += [
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r20,%r21,%r22,%r23}, {%r10,%r11,%r12,%r13},"
        " {%r14,%r15}, {%r16,%r17,%r18,%r19};"
    ]
    body += [f"st.global.b32 [%rd5+{128 * n}], %r{20 + n};" for n in range(4)]
    result, _ = run(body, np.concatenate(words), out=128)
    got = result.view(np.float32).reshape(4, 32)
    for i in range(4):
        assert (got[i] == (a @ b + c)[group + 8 * (i // 2), pair + i % 2]).all()


def test_tf32_ignores_the_lower_bits():
    registers = [np.full(32, 1 + 2.0**-20, np.float32).view(np.uint32)] * 4
    assert (matrix_a(registers, np.array([0]), "tf32") == 1).all()


def test_truncated_sums_are_low():
    a = np.abs(np.random.default_rng(0).standard_normal((16, 64))).astype(np.float16)
    exact = rounded_product(a, a.T, np.zeros((16, 16), np.float32))
    low = truncated_product(a, a.T, np.zeros((16, 16), np.float32), 16)
    assert (low <= exact).all()
    assert 1e-8 < ((exact - low) / exact).mean() < 1e-6


# A value of each thread goes through shared memory to the thread of another warp.
EXCHANGE = [
    "mov.b32 %r6, global_smem;",
    "shl.b32 %r7, %r1, 2;",
    "add.s32 %r7, %r6, %r7;",
    "xor.b32 %r8, %r1, 32;",
    "shl.b32 %r8, %r8, 2;",
    "add.s32 %r8, %r6, %r8;",
]
STORED = [*EXCHANGE, IN.format("%r2", 0), "st.shared.b32 [%r7], %r2;"]
COPIED = [*EXCHANGE, "cp.async.ca.shared.global [%r7+0], [%rd4+0], 0x4;", "cp.async.commit_group;"]
LOADED = ["ld.shared.b32 %r3, [%r8];", OUT.format("%r3")]


@pytest.mark.parametrize("start", [STORED, [*COPIED, "cp.async.wait_group 0;"]])
def test_exchange_between_warps(start):
    result, kernel = run([*start, "bar.sync 0;", *LOADED], np.arange(64, dtype=np.uint32), threads=64, shared=256)
    assert result.tolist() == [*range(32, 64), *range(32)]
    assert not kernel.findings.violations


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ([*STORED, *LOADED], "shared race: read of another warp's write"),
        ([*COPIED, "bar.sync 0;", *LOADED], "shared race: read of a copy in flight"),
        ([*COPIED, "cp.async.wait_group 0;", *LOADED], "shared race: read of another warp's write"),
        ([*EXCHANGE, *LOADED], "read of unwritten shared memory"),
        ([*EXCHANGE, "st.shared.b32 [%r7+4], %r1;"], "out of bounds, shared"),
        ([*EXCHANGE, "st.shared.b32 [%r7+2], %r1;"], "misaligned shared access"),
        ([*EXCHANGE, "st.shared.b32 [%r6], %r1;"], "shared race: different values written between barriers"),
        (["st.global.b32 [%rd5+4], %r1;"], "out of bounds, global"),
        (["st.global.b32 [%rd5+2], %r1;"], "misaligned global access"),
        (["st.global.b32 [%rd2], %r1;"], "global race: different values written"),
        (["st.global.b32 [%rd4], %r1;"], "write to an input"),
        (["ld.global.b32 %r2, [%rd5];"], "read of unwritten global memory"),
    ],
)  # fmt: skip
def test_a_fault_is_found(body, finding):
    _, kernel = run(body, np.arange(64, dtype=np.uint32), threads=64, shared=256)
    assert finding in kernel.findings.kinds()
    assert any(finding in line for line in kernel.findings.lines())


def test_programs_that_write_the_same_bytes_race():
    body = ["mov.u32 %r2, %ctaid.x;", OUT.format("%r2")]
    _, alone = run(body, np.zeros(32, np.uint32))
    _, two = run(body, np.zeros(32, np.uint32), grid=(2,))
    assert not alone.findings.violations
    assert two.findings.kinds() == ["global race: different values written"]


def test_a_predicate_keeps_the_edge():
    body = ["setp.lt.s32 %p1, %r1, 20;", "@%p1 st.global.b32 [%rd5], %r1;"]
    result, kept = run(body, np.zeros(32, np.uint32), out=20)
    assert result.tolist() == list(range(20))
    assert not kept.findings.violations
    _, dropped = run([body[0], body[1].removeprefix("@%p1 ")], np.zeros(32, np.uint32), out=20)
    assert dropped.findings.kinds() == ["out of bounds, global"]


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (None, None),
        ("wgmma.fence.sync.aligned;", "register enters a product without wgmma.fence"),
        ("wgmma.wait_group.sync.aligned 0;", "register of a product in flight is touched"),
    ],
)
def test_fence_and_wait_of_a_product_in_a_loop(fault, finding):
    """The registers of the product are read at the end of the loop, and enter the next one at its beginning."""
    product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r10,%r11,%r12,%r13}, %rd6, %rd7, %p1, 1, 1, 0, 0;"
    body = ["mov.b64 %rd6, 0;", "mov.b64 %rd7, 0;", "setp.ne.s32 %p1, %r1, %r1;", "$L__loop:"]
    body += ["wgmma.fence.sync.aligned;", product, "wgmma.commit_group.sync.aligned;"]
    body += ["wgmma.wait_group.sync.aligned 0;", "add.f32 %r14, %r10, %r11;", "@%p1 bra $L__loop;"]
    text = FRAME.format(threads=128, body="\n".join(line for line in body if line != fault))
    assert Kernel(text, 1024).findings.kinds() == ([] if finding is None else [finding])


def test_a_register_read_before_it_is_written_is_noted():
    _, kernel = run([OUT.format("%r9")], np.zeros(32, np.uint32))
    assert [kind for kind, _ in kernel.findings.notes] == ["register read before it is written"]


@pytest.mark.parametrize(
    "body", ["tanh.approx.f32 %r2, %r1;", "atom.global.add.u32 %r2, [%rd5], %r1;", "bar.sync 1, 64;"]
)
def test_what_is_not_covered_is_named(body):
    with pytest.raises(NotImplementedError, match=body.split()[0]):
        run([body], np.zeros(32, np.uint32))


@pytest.mark.parametrize(
    ("stride", "size", "cycles", "free"),
    [(4, 4, 1, 1), (8, 4, 2, 1), (128, 4, 32, 1), (0, 4, 1, 1), (16, 16, 4, 4), (32, 16, 8, 4), (2, 2, 1, 1)],
)  # fmt: skip
def test_bank_conflicts(stride, size, cycles, free):
    traffic, lane = Traffic(), np.arange(32)
    traffic.shared("ld.shared", lane, 1024 + stride * lane, size)
    assert (traffic["ld.shared cycles"], traffic["ld.shared conflict-free"]) == (cycles, free)


def test_sectors():
    traffic, lane = Traffic(), np.arange(32)
    traffic.globally("ld.global", lane, 256 + 4 * lane, 4)
    traffic.globally("st.global", lane, 256 + 448 * lane, 4)
    assert (traffic["ld.global sectors"], traffic["st.global sectors"]) == (4, 32)


def test_loops_of_machine_code_are_counted_as_often_as_they_are_run():
    code = MachineCode.parse(
        """
.L_x_0:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   IMAD.MOV.U32 R2, RZ, RZ, R1 ;
.L_x_2:
        /*0020*/              @!P0 FFMA R3, R2, R2, R3 ;
        /*0030*/               @P1 BRA `(.L_x_2) ;
        /*0040*/               @P2 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
.L_x_3:
        /*0060*/                   BRA `(.L_x_3) ;
"""
    )
    assert code.issued([(2, 3, 12.0), (1, 4, 3.0)]) == {"alu": 1, "imad.mov": 3, "fma": 12, "control": 12 + 3 + 1 + 1}
    assert code.issued([(1, 4, 3.0)]) is None


def test_representatives_stand_for_all_tiles():
    for count in range(1, 9):
        chosen = one_image.representatives(count)
        assert sum(chosen.values()) == count
        assert {0, count - 1} <= set(chosen) <= set(range(count))


@pytest.mark.parametrize("tiles", ["3", "[]", '{"rows": 3}', '{"rows": {"BI": "x"}}', "{"])
def test_cost_refuses_what_is_no_tile(tiles, capsys):
    with pytest.raises(SystemExit) as stopped:
        cost.main(["--tiles", tiles])
    assert stopped.value.code == 2
    assert "--tiles takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--kernel", "nothing"), ("--tiles", '{"nothing": {"BI": 16}}'), ("--only", "nothing")]
)
def test_unknown_names_are_refused(options, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.ptx", "check" if options[0] == "--only" else "cost", *options])
    assert __main__.main() == 2
    message = capsys.readouterr().err
    assert "nothing" in message
    assert message.count("\n") == 1
