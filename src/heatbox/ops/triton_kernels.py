"""The Triton programs of `heatbox.ops.depthwise_triton`, which explains the method and launches them."""

# Triton reads these functions' source: their parameters carry `tl.constexpr` and nothing else.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def expand(
    weight,
    bands,
    shift,
    border,
    kh,
    kw,
    WIDE: tl.constexpr,
    WIDE_POW2: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """bands[c, border + a, j, u] = weight[c, a, j - shift - u], zero outside the kernel."""
    c = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    j = tl.arange(0, WIDE_POW2)[:, None]
    u = tl.arange(0, COLUMNS)[None, :]
    b = j - shift - u
    a = block - border + j * 0  # a tensor: the interpreter rejects masks made of scalars
    inside = (b >= 0) & (b < kw) & (a >= 0) & (a < kh)
    taps = tl.load(weight + (c * kh + a) * kw + b, mask=inside, other=0.0)
    place = ((c * (kh + 2 * border) + block) * WIDE + j) * COLUMNS + u
    tl.store(bands + place, taps, mask=(j < WIDE) & (u < COLUMNS))


@triton.jit
def forward_images(
    x,
    bands,
    bias,
    out,
    samples,
    channels,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDE: tl.constexpr,
    IMAGES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Large batches: (images, input columns) @ (input columns, output rows x columns), over input rows."""
    strips: tl.constexpr = (W + COLUMNS - 1) // COLUMNS
    layers: tl.constexpr = (H + ROWS - 1) // ROWS
    program = tl.program_id(0)
    u0 = (program % strips) * COLUMNS
    i0 = (program // strips % layers) * ROWS
    groups = tl.cdiv(samples, IMAGES)
    rest = program // (strips * layers)
    c = rest // groups
    n = (rest % groups) * IMAGES + tl.arange(0, IMAGES)
    plane = (n.to(tl.int64) * channels + c) * (H * W)
    present = (n < samples)[:, None]

    depth = tl.arange(0, DEPTH)
    place = tl.arange(0, ROWS * COLUMNS)
    row = place // COLUMNS
    column = place % COLUMNS
    blocks: tl.constexpr = KH + 2 * (ROWS - 1)
    # output row i0 + row reads input row r in kernel row r - i0 - row + KH // 2, block ROWS - 1 higher
    band = bands + c.to(tl.int64) * (blocks * WIDE * COLUMNS) + depth[:, None] * COLUMNS
    band += ((ROWS - 1 - row) * (WIDE * COLUMNS) + column)[None, :]

    # input rows and columns entirely in the padding are skipped
    first_row = tl.maximum(0, i0 - KH // 2)
    last_row = tl.minimum(H, i0 + ROWS - 1 + KH - KH // 2)
    first = tl.maximum(0, MARGIN - u0) // DEPTH * DEPTH
    steps = tl.cdiv(tl.minimum(WIDE, W - u0 + MARGIN) - first, DEPTH)
    total = tl.zeros((IMAGES, ROWS * COLUMNS), tl.float32)
    for step in range(0, (last_row - first_row) * steps):
        r = first_row + step // steps
        j = tl.multiple_of(first + step % steps * DEPTH, DEPTH)
        v = tl.multiple_of(u0 - MARGIN, 16) + j + depth
        inside = present & ((v >= 0) & (v < W))[None, :]
        left = tl.load(x + plane[:, None] + (r * W + v)[None, :], mask=inside, other=0.0)
        right = tl.load(band + ((r - i0 + KH // 2) * WIDE + j) * COLUMNS)
        if UPCAST:  # the interpreter's tl.dot misreads bfloat16
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + c).to(tl.float32)
    i = i0 + row
    u = u0 + column
    inside = present & ((i < H) & (u < W))[None, :]
    tl.store(out + plane[:, None] + (i * W + u)[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def forward_rows(
    x,
    bands,
    bias,
    out,
    samples,
    channels,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDE: tl.constexpr,
    IMAGES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Small batches: (images x rows, input columns) @ (input columns, output columns), over kernel rows."""
    strips: tl.constexpr = (W + COLUMNS - 1) // COLUMNS
    layers: tl.constexpr = (H + ROWS - 1) // ROWS
    program = tl.program_id(0)
    u0 = (program % strips) * COLUMNS
    i0 = (program // strips % layers) * ROWS
    groups = tl.cdiv(samples, IMAGES)
    rest = program // (strips * layers)
    c = rest // groups
    place = tl.arange(0, IMAGES * ROWS)
    n = (rest % groups) * IMAGES + place // ROWS
    i = i0 + place % ROWS
    plane = (n.to(tl.int64) * channels + c) * (H * W)

    depth = tl.arange(0, DEPTH)
    column = tl.arange(0, COLUMNS)
    band = bands + c.to(tl.int64) * (KH * WIDE * COLUMNS) + depth[:, None] * COLUMNS + column[None, :]

    first_tap = tl.maximum(0, KH // 2 - (i0 + ROWS - 1))
    last_tap = tl.minimum(KH, H + KH // 2 - i0)
    first = tl.maximum(0, MARGIN - u0) // DEPTH * DEPTH
    steps = tl.cdiv(tl.minimum(WIDE, W - u0 + MARGIN) - first, DEPTH)
    total = tl.zeros((IMAGES * ROWS, COLUMNS), tl.float32)
    for step in range(0, (last_tap - first_tap) * steps):
        a = first_tap + step // steps
        j = tl.multiple_of(first + step % steps * DEPTH, DEPTH)
        r = i + a - KH // 2
        v = tl.multiple_of(u0 - MARGIN, 16) + j + depth
        inside = ((n < samples) & (r >= 0) & (r < H))[:, None] & ((v >= 0) & (v < W))[None, :]
        left = tl.load(x + (plane + r * W)[:, None] + v[None, :], mask=inside, other=0.0)
        right = tl.load(band + (a * WIDE + j) * COLUMNS)
        if UPCAST:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + c).to(tl.float32)
    u = u0 + column
    inside = ((n < samples) & (i < H))[:, None] & (u < W)[None, :]
    tl.store(out + (plane + i * W)[:, None] + u[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def weight_grad(
    x,
    grad,
    partial,
    samples,
    channels,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDE: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr,
    KW_POW2: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(kernel rows x output columns, images) @ (images, input columns), then sums along diagonals."""
    strips: tl.constexpr = (W + COLUMNS - 1) // COLUMNS
    bundles: tl.constexpr = (KH + TAPS - 1) // TAPS
    program = tl.program_id(0)
    strip = program % strips
    a0 = (program // strips % bundles) * TAPS
    c = program // (strips * bundles)
    u0 = strip * COLUMNS
    place = tl.arange(0, TAPS * COLUMNS)
    a = a0 + place // COLUMNS
    u = u0 + place % COLUMNS
    v = tl.multiple_of(u0 - MARGIN, 16) + tl.arange(0, WIDE)
    image = tl.arange(0, IMAGES)

    first_row = tl.maximum(0, a0 - KH // 2)
    last_row = tl.minimum(H, H + tl.minimum(a0 + TAPS, KH) - 1 - KH // 2)
    groups = tl.cdiv(samples, IMAGES)
    products = tl.zeros((TAPS * COLUMNS, WIDE), tl.float32)
    for step in range(0, (last_row - first_row) * groups):
        r = first_row + step // groups
        n = step % groups * IMAGES + image
        plane = (n.to(tl.int64) * channels + c) * (H * W)
        present = (n < samples)[:, None]
        inside = present & ((v >= 0) & (v < W))[None, :]
        right = tl.load(x + (plane + r * W)[:, None] + v[None, :], mask=inside, other=0.0)
        i = r - a + KH // 2  # output row in which kernel row a reads input row r
        inside = present & ((i >= 0) & (i < H) & (u < W) & (a < KH))[None, :]
        left = tl.load(grad + plane[:, None] + (i * W + u)[None, :], mask=inside, other=0.0)
        if UPCAST:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        products = tl.dot(tl.trans(left), right, products, input_precision=PRECISION)
    # tap b of column u lies MARGIN - KW // 2 + b to the right of it in the window
    b = tl.arange(0, KW_POW2)
    diagonal = tl.minimum((place % COLUMNS)[:, None] + b[None, :] + (MARGIN - KW // 2), WIDE - 1)
    sums = tl.sum(tl.reshape(tl.gather(products, diagonal, axis=1), (TAPS, COLUMNS, KW_POW2)), axis=1)
    tap = a0 + tl.arange(0, TAPS)[:, None]
    place_out = ((strip * channels + c).to(tl.int64) * KH + tap) * KW + b[None, :]
    tl.store(partial + place_out, sums, mask=(tap < KH) & (b < KW)[None, :])
