// Convolutions of channels-last pictures by Winograd's algorithm: 16 products instead of 36 for four outputs of a 3x3 kernel.
//
//     Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A          Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
//                                                                      Networks", eq. 8 to 11, with its A, B and G
//
// d is a tile of inputs, g a kernel, Y a tile of outputs. The sums over channels are matrix products, one for each place of the
// transformed tile. A block of tiles goes through all of it while it stays in the cache. What is convolved can be silu(A x + B) with an A
// and B for each picture and channel, so that a norm before the convolution costs no pass over memory; and a picture can be added to the
// outputs.
//
// Gradients: that of d is the same convolution of the outputs' gradient with the kernel turned around and its channels exchanged. That
// of g is G^T [ sum over tiles of (B^T d B) * (A Y' A^T) ] G, a matrix product for each place too.
//
// Numbers: T, what is stored, float or bfloat16 (Low); I, what is multiplied, float, or pairs of bfloat16 where the processor has their
// product. All sums are in float.

#include "kernels.h"
#include "products.h"

namespace {

constexpr long BLOCK_BYTES = 512 << 10;  // of a block's inputs and sums: what stays in the cache of a core
constexpr long LEAST_TILES = 48;         // of a block, so that a kernel that is read serves enough of them
constexpr long GRADIENT_TILES = 256;     // of a chunk in a kernel's gradient
constexpr long FEW_BYTES = 4 << 20, MOST_BYTES = 256 << 20;  // of the sums of all shares of a kernel's gradient

// ---- Ways to convolve: B^T d, G g, A^T m, and for the kernel's gradient A y and G^T m, each along one axis ----
//
// TAPS of the kernel, IN inputs of a tile, APART from tile to tile, OUT outputs, SIDE places of the transformed tile.

struct Plain {  // F(2, 3) of the paper
    static constexpr int TAPS = 3, IN = 4, APART = 2, OUT = 2, SIDE = 4;
    static void input(const vec* d, vec* v) { v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3]; }
    static void kernel(const vec* g, vec* u) {
        vec ends = 0.5f * (g[0] + g[2]), middle = 0.5f * g[1];
        u[0] = g[0], u[1] = ends + middle, u[2] = ends - middle, u[3] = g[2];
    }
    static void output(const vec* m, vec* y) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
    static void spread(const vec* y, vec* q) { q[0] = y[0], q[1] = y[0] + y[1], q[2] = y[0] - y[1], q[3] = -y[1]; }
    static void back(const vec* m, vec* g) {
        vec half = 0.5f * (m[1] + m[2]);
        g[0] = m[0] + half, g[1] = 0.5f * (m[1] - m[2]), g[2] = half + m[3];
    }
};

// Of a picture with every pixel doubled, as nearest-neighbour upsampling makes it. Its tiles are a b b c, so that of Plain's places
// d_2 - d_1 is always 0: 9 products for four outputs.
struct Doubled {
    static constexpr int TAPS = 3, IN = 3, APART = 1, OUT = 2, SIDE = 3;
    static void input(const vec* d, vec* v) { v[0] = d[0] - d[1], v[1] = d[1], v[2] = d[1] - d[2]; }
    static void kernel(const vec* g, vec* u) { u[0] = g[0], u[1] = g[0] + g[1] + g[2], u[2] = g[2]; }
    static void output(const vec* m, vec* y) { y[0] = m[0] + m[1], y[1] = m[1] - m[2]; }
    static void spread(const vec* y, vec* q) { q[0] = y[0], q[1] = y[0] + y[1], q[2] = -y[1]; }
    static void back(const vec* m, vec* g) { g[0] = m[0] + m[1], g[1] = m[1], g[2] = m[1] + m[2]; }
};

// The sums of the outputs by two, which is the way back of Doubled: Plain's m_2 has no part in them.
struct Halved {
    static constexpr int TAPS = 3, IN = 4, APART = 2, OUT = 1, SIDE = 3;
    static void input(const vec* d, vec* v) { v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[1] - d[3]; }
    static void kernel(const vec* g, vec* u) { Doubled::kernel(g, u); }
    static void output(const vec* m, vec* y) { y[0] = m[0] + m[1] - m[2]; }
};

struct Single {  // a kernel of one tap
    static constexpr int TAPS = 1, IN = 1, APART = 1, OUT = 1, SIDE = 1;
    static void input(const vec* d, vec* v) { *v = *d; }
    static void kernel(const vec* g, vec* u) { *u = *g; }
    static void output(const vec* m, vec* y) { *y = *m; }
    static void spread(const vec* y, vec* q) { *q = *y; }
    static void back(const vec* m, vec* g) { *g = *m; }
};

template <class W> constexpr int places() { return W::SIDE * W::SIDE; }

// Along both axes.
template <int FROM, int TO> inline void both(void (&along)(const vec*, vec*), const vec (&a)[FROM][FROM], vec (&b)[TO][TO]) {
    vec rows[FROM][TO];
#pragma GCC unroll 4
    for (int i = 0; i < FROM; i++) along(a[i], rows[i]);
#pragma GCC unroll 4
    for (int j = 0; j < TO; j++) {
        vec column[FROM], made[TO];
#pragma GCC unroll 4
        for (int i = 0; i < FROM; i++) column[i] = rows[i][j];
        along(column, made);
#pragma GCC unroll 4
        for (int i = 0; i < TO; i++) b[i][j] = made[i];
    }
}

// ---- Pictures ----

template <class T> struct Picture {  // channels last, with what is to be done to it before it is convolved
    const T* data;
    long n, height, width, channels;
    const float *factor, *constant;  // (n, channels) of silu(factor x + constant), or null

    long padded() const { return up(channels, LANES); }
};

template <class W, class T> struct Tiles {  // of a picture that is convolved
    const Picture<T>& x;
    static constexpr int MARGIN = W::TAPS / 2;
    explicit Tiles(const Picture<T>& x) : x(x) {}
    long rows() const { return (x.height + W::APART - 1) / W::APART; }
    long columns() const { return (x.width + W::APART - 1) / W::APART; }
    long staged_columns() const { return W::APART * columns() + W::IN - W::APART; }
    long line() const { return staged_columns() * x.padded(); }

    // Calls of(stage, its line, row of tiles) for rows of tiles from first to last, numbered through all pictures; stage is the first of the
    // rows of pixels that it needs, with zeros around the picture. Neighbouring rows of tiles share what is staged.
    template <class Of> void staged(long first, long last, Scratch& scratch, Of of) const {
        auto lines = [](long tiles) { return W::APART * tiles + W::IN - W::APART; };
        T* stage = scratch.of<T>(lines(std::min(rows(), last - first)) * line());
        for (long row = first; row < last;) {
            long image = row / rows(), top = row % rows(), run = std::min(rows() - top, last - row);
            for (long i = 0; i < lines(run); i++) stage_row(image, W::APART * top - MARGIN + i, stage + i * line());
            for (long i = 0; i < run; i++) of(stage + W::APART * i * line(), line(), row + i);
            row += run;
        }
    }

    void stage_row(long image, long row, T* out) const {
        long padded = x.padded();
        if (row < 0 || row >= x.height) {
            std::memset(out, 0, line() * sizeof(T));
            return;
        }
        std::memset(out, 0, MARGIN * padded * sizeof(T));
        T* inside = out + MARGIN * padded;
        const T* pixels = x.data + (image * x.height + row) * x.width * x.channels;
        if (!x.factor && padded == x.channels) std::memcpy(inside, pixels, x.width * padded * sizeof(T));
        else
            for (long c = 0; c < padded; c += WIDTH) stage_channels(image, c, pixels + c, inside + c);
        std::memset(inside + x.width * padded, 0, (staged_columns() - MARGIN - x.width) * padded * sizeof(T));
    }

    // A row's pixels of a vector of channels.
    void stage_channels(long image, long c, const T* pixels, T* out) const {
        long some = x.channels - c, at = image * x.channels + c, padded = x.padded(), width = x.width, step = x.channels;
        if (some <= 0)
            for (long j = 0; j < width; j++) store(out + j * padded, all(0));
        else if (!x.factor)
            for (long j = 0; j < width; j++) store(out + j * padded, load_up_to(pixels + j * step, some));
        else {
            vec factor = load_up_to(x.factor + at, some), constant = load_up_to(x.constant + at, some);
            for (long j = 0; j < width; j++) store(out + j * padded, silu<T>(load_up_to(pixels + j * step, some) * factor + constant));
        }
    }
};

// B^T d B of the tile that begins at `corner`.
template <class W, class T> inline void load_tile(const T* corner, long line, long padded, vec (&v)[W::SIDE][W::SIDE]) {
    vec d[W::IN][W::IN];
#pragma GCC unroll 4
    for (int i = 0; i < W::IN; i++)
#pragma GCC unroll 4
        for (int j = 0; j < W::IN; j++) d[i][j] = load(corner + i * line + j * padded);
    both(W::input, d, v);
}

// ---- Kernels: (O, C, taps, taps) float -> for each panel and place, channel (or pair) by channel, the panel's outputs ----

template <class W, class I> long packed_floats(long c, long o) {
    long depth = up(c, at_once<I>()) / at_once<I>();
    return places<W>() * depth * up(o, LANES);
}

template <class W> inline void load_kernel(const float* w, long outputs, const long* steps, vec (&u)[W::SIDE][W::SIDE]) {
    vec g[W::TAPS][W::TAPS];
    for (int i = 0; i < W::TAPS; i++)
        for (int j = 0; j < W::TAPS; j++) {
            float lane[WIDTH] = {};
            for (long l = 0; l < outputs; l++) lane[l] = w[l * steps[0] + i * steps[2] + j * steps[3]];
            g[i][j] = load(lane);
        }
    both(W::kernel, g, u);
}

template <class W, class I>
void pack(const float* w, float* packed, long c, long o, const long* steps, [[maybe_unused]] int threads) {
    Panels panels(o);
    long depth = up(c, at_once<I>()) / at_once<I>();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long vector = 0; vector < panels.vectors; vector++) {
        long panel = panels.of(vector), size = panels.size(panel);
        float* to = packed + places<W>() * depth * panels.first(panel) * WIDTH + (vector - panels.first(panel)) * WIDTH;
        long first = vector * WIDTH, outputs = std::max(0L, std::min<long>(WIDTH, o - first));
        for (long k = 0; k < depth; k++) {
            vec u[W::SIDE][W::SIDE], second[W::SIDE][W::SIDE] = {};
            const float* from = w + first * steps[0] + k * at_once<I>() * steps[1];
            load_kernel<W>(from, outputs, steps, u);
            if (at_once<I>() == 2 && 2 * k + 1 < c) load_kernel<W>(from + steps[1], outputs, steps, second);
            for (int place = 0; place < places<W>(); place++) {
                vec value = u[place / W::SIDE][place % W::SIDE];
                if (at_once<I>() == 2) value = (vec)paired(value, second[place / W::SIDE][place % W::SIDE]);
                store(to + (place * depth + k) * size * WIDTH, value);
            }
        }
    }
}

// ---- The convolution ----

template <class T> struct Output {
    T* data;
    const T* added;  // or null
    long height, width, channels;
    const float* bias;  // or null
};

template <class T> inline void put_pixel(const Output<T>& y, long image, long i, long j, long o, vec v) {
    if (i >= y.height || j >= y.width) return;
    long at = ((image * y.height + i) * y.width + j) * y.channels + o;
    if (y.added) v += load_up_to(y.added + at, y.channels - o);
    store_up_to(y.data + at, v, y.channels - o);
}

// A^T m A of a row of tiles, for the outputs of a panel.
template <class W, class T>
void output_row(Output<T> y, const float* sums, long place_step, long image, long row, long columns, long o, int vectors) {
    constexpr int PLACES = places<W>();
    for (int v = 0; v < vectors; v++) {
        long output = o + v * WIDTH;
        if (output >= y.channels) return;
        vec bias = y.bias ? load_up_to(y.bias + output, y.channels - output) : all(0);
        for (long t = 0; t < columns; t++) {
            const float* from = sums + (t * vectors + v) * WIDTH;
            vec m[W::SIDE][W::SIDE], out[W::OUT][W::OUT];
#pragma GCC unroll 16
            for (int place = 0; place < PLACES; place++) m[place / W::SIDE][place % W::SIDE] = load(from + place * place_step);
            both(W::output, m, out);
            for (int i = 0; i < W::OUT; i++)
                for (int j = 0; j < W::OUT; j++) put_pixel(y, image, W::OUT * row + i, W::OUT * t + j, output, out[i][j] + bias);
        }
    }
}

// The rows of tiles from first to last, all the way from inputs to outputs.
template <class W, class T, class I>
void convolve_block(const Tiles<W, T>& tiles, const float* packed, const Output<T>& y, const Panels& panels, long first, long last) {
    typedef typename Element<I>::unit unit;
    static thread_local Scratch stage_scratch, inputs_scratch, sums_scratch;
    constexpr int PLACES = places<W>();
    long columns = tiles.columns(), count = (last - first) * columns, padded = tiles.x.padded();
    long depth = up(tiles.x.channels, at_once<I>()) / at_once<I>();
    I* inputs = inputs_scratch.of<I>(PLACES * count * padded);
    float* sums = sums_scratch.of<float>(PLACES * count * WIDEST * WIDTH);
    tiles.staged(first, last, stage_scratch, [=](const T* stage, long line, long row) {
        for (long t = 0; t < columns; t++)
            for (long c = 0; c < padded; c += WIDTH) {
                vec v[W::SIDE][W::SIDE];
                load_tile<W>(stage + W::APART * t * padded + c, line, padded, v);
                I* to = inputs + ((row - first) * columns + t) * padded + c;
#pragma GCC unroll 16
                for (int place = 0; place < PLACES; place++, to += count * padded) store(to, v[place / W::SIDE][place % W::SIDE]);
            }
    });
    for (long panel = 0; panel < panels.count; panel++) {
        int vectors = panels.size(panel);
        long width = vectors * WIDTH;
        const float* kernel = packed + PLACES * depth * panels.first(panel) * WIDTH;
        for (int place = 0; place < PLACES; place++)
            products<I, false>(vectors, (const unit*)(inputs + place * count * padded), padded / at_once<I>(), 1,
                               kernel + place * depth * width, depth, sums + place * count * width, width, count);
        for (long row = first; row < last; row++)
            output_row<W>(y, sums + (row - first) * columns * width, count * width, row / tiles.rows(), row % tiles.rows(), columns,
                          panels.first(panel) * WIDTH, vectors);
    }
}

template <class W, class T, class I> bool convolve(const Picture<T>& x, const float* packed, const Output<T>& y, int threads) {
    Panels panels(y.channels);
    Tiles<W, T> tiles(x);
    long rows = x.n * tiles.rows();
    if (rows * tiles.columns() == 0) return true;
    long of_tile = places<W>() * (x.padded() * (long)sizeof(I) + panels.size(0) * WIDTH * (long)sizeof(float));
    long together = std::max(LEAST_TILES, BLOCK_BYTES / of_tile);
    long blocks = up(std::max(1L, rows * tiles.columns() / together), threads), each = (rows + blocks - 1) / blocks;
    blocks = (rows + each - 1) / each;
    bool enough = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : enough)
    for (long block = 0; block < blocks; block++) {
        auto run = [&] { convolve_block<W, T, I>(tiles, packed, y, panels, block * each, std::min(rows, (block + 1) * each)); };
        enough = succeeds(run) && enough;
    }
    return enough;
}

// ---- The gradient of the kernel ----

// Each share of the rows of tiles has sums of its own, so that no thread waits for what another computes.
template <class W, class T, class I> struct KernelGradient {
    typedef typename Element<I>::unit unit;
    static constexpr int STEP = at_once<I>(), PLACES = places<W>();
    Picture<T> x, g;
    Tiles<W, T> tiles;
    Panels panels;
    long columns, pairs, padded, outputs, step, rows, shares;
    float* sums;  // of each share: (place, panel, channel, output)

    KernelGradient(const Picture<T>& x, const Picture<T>& g)
        : x(x), g(g), tiles(this->x), panels(g.channels), columns(tiles.columns()), pairs((columns + STEP - 1) / STEP), padded(x.padded()),
          outputs(up(g.channels, LANES)), step(padded + LANES),  // no power of two, which would crowd a few lines of the cache
          rows(x.n * tiles.rows()) {}

    long all_sums() const { return PLACES * x.channels * outputs; }

    // More shares than threads where sums are small, so that a thread that is held up holds up less.
    long shares_for(long threads) const {
        long bytes = all_sums() * sizeof(float);
        long most = 4 * threads * bytes <= FEW_BYTES ? 4 * threads : std::min(threads, MOST_BYTES / bytes);
        return std::max(1L, std::min(rows, most));
    }

    void transform_inputs(long first, long last, long depth, unit* inputs, Scratch& scratch) const {  // (place, k, channel)
        long pairs = this->pairs, columns = this->columns, padded = this->padded, step = this->step;
        tiles.staged(first, last, scratch, [=](const T* stage, long line, long row) {
            for (long p = 0; p < pairs; p++)
                for (long c = 0; c < padded; c += WIDTH) {  // a pair: two tiles that follow each other in a row
                    vec v[W::SIDE][W::SIDE], second[W::SIDE][W::SIDE] = {};
                    const T* corner = stage + W::APART * STEP * p * padded + c;
                    load_tile<W>(corner, line, padded, v);
                    if (STEP == 2 && 2 * p + 1 < columns) load_tile<W>(corner + W::APART * padded, line, padded, second);
                    unit* to = inputs + ((row - first) * pairs + p) * step + c;
#pragma GCC unroll 16
                    for (int place = 0; place < PLACES; place++, to += depth * step)
                        put_unit(to, v[place / W::SIDE][place % W::SIDE], second[place / W::SIDE][place % W::SIDE]);
                }
        });
    }

    static void load_spread(Picture<T> g, long rows, long row, long t, long o, vec (&q)[W::SIDE][W::SIDE]) {
        vec y[W::OUT][W::OUT];
        long image = row / rows, top = W::OUT * (row % rows);
        for (int i = 0; i < W::OUT; i++)
            for (int j = 0; j < W::OUT; j++) {
                long r = top + i, s = W::OUT * t + j;
                bool inside = r < g.height && s < g.width && o < g.channels;
                const T* from = g.data + ((image * g.height + r) * g.width + s) * g.channels + o;
                y[i][j] = inside ? load_up_to(from, g.channels - o) : vec{};
            }
        both(W::spread, y, q);
    }

    void transform_gradients(long first, long last, long depth, unit* spread) const {  // (place, panel, k, output)
        long pairs = this->pairs, rows = tiles.rows(), apart = depth * outputs;
        Picture<T> g = this->g;
        for (long panel = 0; panel < panels.count; panel++) {
            int size = panels.size(panel);
            long start = panels.first(panel) * WIDTH;
            unit* to = spread + start * depth;
            for (long row = first; row < last; row++)
                for (long p = 0; p < pairs; p++)
                    for (int v = 0; v < size; v++, to += WIDTH) {
                        vec q[W::SIDE][W::SIDE], second[W::SIDE][W::SIDE] = {};
                        load_spread(g, rows, row, STEP * p, start + v * WIDTH, q);
                        if (STEP == 2) load_spread(g, rows, row, 2 * p + 1, start + v * WIDTH, second);
                        unit* at = to;
#pragma GCC unroll 16
                        for (int place = 0; place < PLACES; place++, at += apart)
                            put_unit(at, q[place / W::SIDE][place % W::SIDE], second[place / W::SIDE][place % W::SIDE]);
                    }
        }
    }

    // Adds the rows of tiles from first to last.
    void add(long first, long last, float* sums) const {
        static thread_local Scratch stage_scratch, inputs_scratch, spread_scratch;
        long depth = (last - first) * pairs;
        unit *inputs = inputs_scratch.of<unit>(PLACES * depth * step), *spread = spread_scratch.of<unit>(PLACES * depth * outputs);
        transform_inputs(first, last, depth, inputs, stage_scratch);
        transform_gradients(first, last, depth, spread);
        for (long place = 0; place < PLACES; place++)
            for (long panel = 0; panel < panels.count; panel++) {
                long start = panels.first(panel) * WIDTH;
                int size = panels.size(panel);
                products<I, true>(size, inputs + place * depth * step, 1, step, (const float*)spread + place * depth * outputs + start * depth,
                                  depth, sums + place * x.channels * outputs + start * x.channels, size * WIDTH, x.channels);
            }
    }

    bool add_share(long share) const {
        long last = rows * (share + 1) / shares, chunk = std::max(1L, GRADIENT_TILES / std::max(1L, columns));
        float* to = sums + share * all_sums();
        std::memset(to, 0, all_sums() * sizeof(float));
        return succeeds([&] {
            for (long row = rows * share / shares; row < last; row += chunk) add(row, std::min(last, row + chunk), to);
        });
    }

    void finish(long vector, float* w, const long* steps) const {  // G^T sums G, into (O, C, taps, taps)
        long panel = panels.of(vector), start = panels.first(panel), size = panels.size(panel);
        for (long c = 0; c < x.channels; c++) {
            vec m[W::SIDE][W::SIDE] = {}, gradient[W::TAPS][W::TAPS];
            for (long share = 0; share < shares; share++)
                for (int place = 0; place < PLACES; place++)
                    m[place / W::SIDE][place % W::SIDE] += load(sums + share * all_sums() + place * x.channels * outputs +
                                                                start * WIDTH * x.channels + (c * size + vector - start) * WIDTH);
            both(W::back, m, gradient);
            for (int i = 0; i < W::TAPS; i++)
                for (int j = 0; j < W::TAPS; j++)
                    for (long l = 0; l < WIDTH && vector * WIDTH + l < g.channels; l++)
                        w[(vector * WIDTH + l) * steps[0] + c * steps[1] + i * steps[2] + j * steps[3]] = gradient[i][j][l];
        }
    }

    bool run(float* w, const long* steps, int threads) {
        static thread_local Scratch sums_scratch;
        shares = shares_for(threads);
        sums = sums_scratch.of<float>(shares * all_sums());
        bool enough = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : enough)
        for (long share = 0; share < shares; share++) enough = add_share(share) && enough;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (long vector = 0; vector < panels.vectors; vector++) finish(vector, w, steps);
        return enough;
    }
};

// ---- Which way, which numbers ----

enum { PLAIN, DOUBLED, HALVED, SINGLE };

template <class Of> auto by_way(int way, Of of) {
    if (way == DOUBLED) return of(Doubled());
    if (way == HALVED) return of(Halved());
    if (way == SINGLE) return of(Single());
    return of(Plain());
}

template <class Of> auto by_type(int low, Of of) { return low ? of(Low()) : of(float()); }

}  // namespace

extern "C" {

long winograd_packed_floats(int way, const long* shape, int low) {
    return by_way(way, [&](auto w) {
        return low && PAIRS ? packed_floats<decltype(w), Low>(shape[3], shape[4]) : packed_floats<decltype(w), float>(shape[3], shape[4]);
    });
}

void winograd_pack(int way, const float* w, const long* steps, float* packed, const long* shape, int low, int threads) {
    by_way(way, [&](auto of) {
        (low && PAIRS ? pack<decltype(of), Low> : pack<decltype(of), float>)(w, packed, shape[3], shape[4], steps, threads);
    });
}

int winograd_convolve(int way, const void* x, void* y, const void* added, const long* shape, const float* factor, const float* constant,
                      const float* packed, const float* bias, int low, int threads) {
    return !by_way(way, [&](auto w) {
        return by_type(low, [&](auto t) {
            typedef decltype(w) W;
            typedef decltype(t) T;
            Picture<T> picture{(const T*)x, shape[0], shape[1], shape[2], shape[3], factor, constant};
            Output<T> output{(T*)y, (const T*)added, shape[1] * W::OUT / W::APART, shape[2] * W::OUT / W::APART, shape[4], bias};
            return convolve<W, T, Multiplied<T>>(picture, packed, output, threads);
        });
    });
}

int winograd_kernel_gradient(int way, const void* x, const void* g, const long* shape, const float* factor, const float* constant, float* w,
                             const long* steps, int low, int threads) {
    auto run = [&](auto of, auto t) {
        typedef decltype(of) W;
        typedef decltype(t) T;
        long times = W::OUT / W::APART;
        Picture<T> inputs{(const T*)x, shape[0], shape[1], shape[2], shape[3], factor, constant};
        Picture<T> outputs{(const T*)g, shape[0], times * shape[1], times * shape[2], shape[4], nullptr, nullptr};
        bool enough = true;
        return succeeds([&] { enough = KernelGradient<W, T, Multiplied<T>>(inputs, outputs).run(w, steps, threads); }) && enough;
    };
    return !by_type(low, [&](auto t) {
        return way == DOUBLED ? run(Doubled(), t) : way == SINGLE ? run(Single(), t) : run(Plain(), t);
    });
}
}
