// 3x3 convolutions of channels-last pictures by Winograd's algorithm F(2x2, 3x3): 16 products instead of 36 for four outputs.
//
//     Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A          Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
//                                                                      Networks", eq. 8 to 11, with its A, B and G
//
// d is a tile of 4x4 inputs, two apart; g a kernel of 3x3; Y a tile of 2x2 outputs. The sums over channels are 16 matrix products, one
// for each place of the transformed tile. A block of tiles goes through all of it while it stays in the cache. What is convolved can be
// silu(A x + B) with an A and B for each picture and channel, so that a norm before the convolution costs no pass over memory.
//
// Gradients: that of d is the same convolution of the outputs' gradient with the kernel turned around and its channels exchanged. That
// of g is G^T [ sum over tiles of (B^T d B) * (A Y' A^T) ] G, a matrix product for each place too.
//
// Numbers: T, what is stored, float or bfloat16 (Low); I, what is multiplied, float, or pairs of bfloat16 where the processor has their
// product. All sums are in float.

#include "products.h"

namespace {

constexpr int PLACES = 16;               // of a transformed tile
constexpr long BLOCK_BYTES = 512 << 10;  // of a block's inputs and sums: what stays in the cache of a core
constexpr long LEAST_TILES = 48;         // of a block, so that a kernel that is read serves enough of them
constexpr long GRADIENT_TILES = 256;     // of a chunk in a kernel's gradient

// ---- Pictures ----

template <class T> struct Picture {  // channels last, with what is to be done to it before it is convolved
    const T* data;
    long n, height, width, channels;
    const float *factor, *constant;  // (n, channels) of silu(factor x + constant), or null

    long tile_rows() const { return (height + 1) / 2; }
    long tile_columns() const { return (width + 1) / 2; }
    long padded() const { return up(channels, LANES); }
    long staged_columns() const { return 2 * tile_columns() + 2; }
};

template <class T> inline vec prepared(const Picture<T>& x, const T* pixel, long image, long c, long some) {
    vec v = load_up_to(pixel + c, some);
    if (!x.factor) return v;
    long at = image * x.channels + c;
    return silu(v * load_up_to(x.factor + at, some) + load_up_to(x.constant + at, some));
}

// One row of pixels into the stage, with a column of zeros before it and zeros behind.
template <class T> void stage_row(const Picture<T>& x, long image, long row, T* out) {
    long padded = x.padded(), columns = x.staged_columns();
    if (row < 0 || row >= x.height) {
        std::memset(out, 0, columns * padded * sizeof(T));
        return;
    }
    std::memset(out, 0, padded * sizeof(T));
    const T* pixels = x.data + (image * x.height + row) * x.width * x.channels;
    bool as_it_is = !x.factor && padded == x.channels;
    if (as_it_is) std::memcpy(out + padded, pixels, x.width * padded * sizeof(T));
    for (long j = 0; j < x.width && !as_it_is; j++) {
        const T* pixel = pixels + j * x.channels;
        T* to = out + (j + 1) * padded;
        for (long c = 0; c < padded; c += WIDTH)
            store(to + c, c < x.channels ? prepared(x, pixel, image, c, x.channels - c) : all(0));
    }
    std::memset(out + (x.width + 1) * padded, 0, (columns - x.width - 1) * padded * sizeof(T));
}

// Calls of(stage, row of tiles) for rows of tiles from first to last, numbered through all pictures; stage is the first of the four
// rows of pixels that it needs, padded as above. Neighbouring rows of tiles share what is staged.
template <class T, class Of> void staged(const Picture<T>& x, long first, long last, Room& room, Of of) {
    long line = x.staged_columns() * x.padded(), rows = x.tile_rows();
    T* stage = room.of<T>((2 * std::min(rows, last - first) + 2) * line);
    for (long row = first; row < last;) {
        long image = row / rows, top = row % rows, run = std::min(rows - top, last - row);
        for (long i = 0; i < 2 * run + 2; i++) stage_row(x, image, 2 * top - 1 + i, stage + i * line);
        for (long i = 0; i < run; i++) of(stage + 2 * i * line, row + i);
        row += run;
    }
}

// ---- Transforms ----

inline void input_transform(vec (&d)[4][4]) {  // B^T d B
    for (int j = 0; j < 4; j++) {
        vec a = d[0][j] - d[2][j], b = d[1][j] + d[2][j], c = d[2][j] - d[1][j], e = d[1][j] - d[3][j];
        d[0][j] = a, d[1][j] = b, d[2][j] = c, d[3][j] = e;
    }
    for (int i = 0; i < 4; i++) {
        vec a = d[i][0] - d[i][2], b = d[i][1] + d[i][2], c = d[i][2] - d[i][1], e = d[i][1] - d[i][3];
        d[i][0] = a, d[i][1] = b, d[i][2] = c, d[i][3] = e;
    }
}

template <class T> inline void load_tile(const T* corner, long line, long padded, vec (&d)[4][4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) d[i][j] = load(corner + i * line + j * padded);
    input_transform(d);
}

inline void spread_transform(const vec (&y)[2][2], vec (&q)[4][4]) {  // A y A^T
    vec h[4][2];
    for (int j = 0; j < 2; j++) h[0][j] = y[0][j], h[1][j] = y[0][j] + y[1][j], h[2][j] = y[0][j] - y[1][j], h[3][j] = -y[1][j];
    for (int i = 0; i < 4; i++) q[i][0] = h[i][0], q[i][1] = h[i][0] + h[i][1], q[i][2] = h[i][0] - h[i][1], q[i][3] = -h[i][1];
}

inline void kernel_transform(const vec (&g)[3][3], vec (&u)[4][4]) {  // G g G^T
    vec h[4][3];
    for (int j = 0; j < 3; j++) {
        vec ends = 0.5f * (g[0][j] + g[2][j]), middle = 0.5f * g[1][j];
        h[0][j] = g[0][j], h[1][j] = ends + middle, h[2][j] = ends - middle, h[3][j] = g[2][j];
    }
    for (int i = 0; i < 4; i++) {
        vec ends = 0.5f * (h[i][0] + h[i][2]), middle = 0.5f * h[i][1];
        u[i][0] = h[i][0], u[i][1] = ends + middle, u[i][2] = ends - middle, u[i][3] = h[i][2];
    }
}

// ---- Kernels: (O, C, 3, 3) float -> for each panel and place, channel (or pair) by channel, the panel's outputs ----

template <class I> long packed_floats(long c, long o) {
    long depth = up(c, at_once<I>()) / at_once<I>();
    return PLACES * depth * up(o, LANES);
}

inline void gather_kernel(const float* w, long outputs, long step_o, long step_row, long step_column, vec (&g)[3][3]) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            float lane[WIDTH] = {};
            for (long l = 0; l < outputs; l++) lane[l] = w[l * step_o + i * step_row + j * step_column];
            g[i][j] = load(lane);
        }
}

template <class I> void pack(const float* w, float* packed, long c, long o, const long* steps, int threads) {
    Panels panels(o);
    long depth = up(c, at_once<I>()) / at_once<I>();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long vector = 0; vector < panels.vectors; vector++) {
        long panel = panels.of(vector);
        int size = panels.size(panel);
        float* to = packed + PLACES * depth * panels.first(panel) * WIDTH + (vector - panels.first(panel)) * WIDTH;
        long first = vector * WIDTH, outputs = std::max(0L, std::min<long>(WIDTH, o - first));
        for (long k = 0; k < depth; k++) {
            vec g[3][3], u[4][4], second[4][4] = {};
            long channel = k * at_once<I>();
            gather_kernel(w + first * steps[0] + channel * steps[1], outputs, steps[0], steps[2], steps[3], g);
            kernel_transform(g, u);
            if (at_once<I>() == 2 && channel + 1 < c) {
                gather_kernel(w + first * steps[0] + (channel + 1) * steps[1], outputs, steps[0], steps[2], steps[3], g);
                kernel_transform(g, second);
            }
            for (int place = 0; place < PLACES; place++) {
                vec value = u[place / 4][place % 4];
                if (at_once<I>() == 2) value = (vec)paired(value, second[place / 4][place % 4]);
                store(to + (place * depth + k) * size * WIDTH, value);
            }
        }
    }
}

// ---- The convolution ----

template <class T> struct Output {
    T* data;
    long height, width, channels;
    const float* bias;  // or null
};

template <class T> inline void put_pixel(const Output<T>& y, long image, long i, long j, long o, vec v) {
    if (i >= y.height || j >= y.width) return;
    T* to = y.data + ((image * y.height + i) * y.width + j) * y.channels + o;
    store_up_to(to, v, y.channels - o);
}

// A^T m A of a row of tiles, for the outputs of a panel.
template <class T>
void output_row(const Output<T>& y, const float* sums, long place_step, long image, long row, long columns, long o, int vectors) {
    for (int v = 0; v < vectors; v++) {
        long output = o + v * WIDTH;
        if (output >= y.channels) return;
        vec bias = y.bias ? load_up_to(y.bias + output, y.channels - output) : all(0);
        for (long t = 0; t < columns; t++) {
            const float* m = sums + (t * vectors + v) * WIDTH;
            vec s[2][4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                vec m0 = load(m + j * place_step), m1 = load(m + (4 + j) * place_step);
                vec m2 = load(m + (8 + j) * place_step), m3 = load(m + (12 + j) * place_step);
                s[0][j] = m0 + m1 + m2, s[1][j] = m1 - m2 - m3;
            }
            for (int i = 0; i < 2; i++) {
                put_pixel(y, image, 2 * row + i, 2 * t, output, s[i][0] + s[i][1] + s[i][2] + bias);
                put_pixel(y, image, 2 * row + i, 2 * t + 1, output, s[i][1] - s[i][2] - s[i][3] + bias);
            }
        }
    }
}

// The rows of tiles from first to last, all the way from inputs to outputs.
template <class T, class I>
void convolve_block(const Picture<T>& x, const float* packed, const Output<T>& y, const Panels& panels, long first, long last) {
    typedef typename Element<I>::unit unit;
    static thread_local Room stage_room, inputs_room, sums_room;
    long columns = x.tile_columns(), count = (last - first) * columns, padded = x.padded();
    long line = x.staged_columns() * padded, depth = up(x.channels, at_once<I>()) / at_once<I>();
    I* inputs = inputs_room.of<I>(PLACES * count * padded);
    float* sums = sums_room.of<float>(PLACES * count * WIDEST * WIDTH);
    staged(x, first, last, stage_room, [&](const T* stage, long row) {
        for (long t = 0; t < columns; t++)
            for (long c = 0; c < padded; c += WIDTH) {
                vec d[4][4];
                load_tile(stage + 2 * t * padded + c, line, padded, d);
                I* to = inputs + ((row - first) * columns + t) * padded + c;
#pragma GCC unroll 16
                for (int place = 0; place < PLACES; place++) store(to + place * count * padded, d[place / 4][place % 4]);
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
            output_row(y, sums + (row - first) * columns * width, count * width, row / x.tile_rows(), row % x.tile_rows(), columns,
                       panels.first(panel) * WIDTH, vectors);
    }
}

template <class T, class I> bool convolve(const Picture<T>& x, const float* packed, const Output<T>& y, int threads) {
    Panels panels(y.channels);
    long rows = x.n * x.tile_rows();
    long of_tile = PLACES * (x.padded() * (long)sizeof(I) + panels.size(0) * WIDTH * (long)sizeof(float));
    long tiles = std::max(LEAST_TILES, BLOCK_BYTES / of_tile);
    long blocks = up(std::max(1L, rows * x.tile_columns() / tiles), threads), each = (rows + blocks - 1) / blocks;
    blocks = (rows + each - 1) / each;
    bool enough = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : enough)
    for (long block = 0; block < blocks; block++) {
        auto run = [&] { convolve_block<T, I>(x, packed, y, panels, block * each, std::min(rows, (block + 1) * each)); };
        enough = succeeds(run) && enough;
    }
    return enough;
}

// ---- The gradient of the kernel ----

template <class T> inline void load_spread(const Picture<T>& g, long image, long row, long t, long o, vec (&q)[4][4]) {
    vec y[2][2];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            long r = 2 * row + i, s = 2 * t + j;
            bool inside = r < g.height && s < g.width && o < g.channels;
            const T* from = g.data + ((image * g.height + r) * g.width + s) * g.channels + o;
            y[i][j] = inside ? load_up_to(from, g.channels - o) : vec{};
        }
    spread_transform(y, q);
}

// The sums over tiles for all places, panels and channels, and what they are computed from, chunk by chunk.
template <class T, class I> struct KernelGradient {
    typedef typename Element<I>::unit unit;
    static constexpr int STEP = at_once<I>();
    Picture<T> x, g;
    Panels panels;
    long columns, pairs, padded, outputs, step;
    unit* inputs;  // (place, k, channel)
    float *spread, *sums;  // (place, panel, k, output), (place, panel, channel, output)

    KernelGradient(const Picture<T>& x, const Picture<T>& g)
        : x(x), g(g), panels(g.channels), columns(x.tile_columns()), pairs((columns + STEP - 1) / STEP), padded(x.padded()),
          outputs(up(g.channels, LANES)), step(padded + LANES) {}  // `step` is no power of two, which would crowd a few lines of the cache

    void transform_inputs(long first, long last, long depth, long origin, Room& room) {
        long line = x.staged_columns() * padded;
        staged(x, first, last, room, [&](const T* stage, long row) {
            for (long p = 0; p < pairs; p++)
                for (long c = 0; c < padded; c += WIDTH) {
                    vec d[4][4], second[4][4] = {};
                    load_tile(stage + 2 * STEP * p * padded + c, line, padded, d);
                    if (STEP == 2 && 2 * p + 1 < columns) load_tile(stage + (4 * p + 2) * padded + c, line, padded, second);
                    unit* to = inputs + ((row - origin) * pairs + p) * step + c;  // a pair: two tiles that follow each other in a row
#pragma GCC unroll 16
                    for (int place = 0; place < PLACES; place++)
                        put_unit(to + place * depth * step, d[place / 4][place % 4], second[place / 4][place % 4]);
                }
        });
    }

    void transform_gradients(long first, long last, long depth, long origin) {
        for (long row = first; row < last; row++)
            for (long p = 0; p < pairs; p++)
                for (long panel = 0; panel < panels.count; panel++)
                    for (int v = 0; v < panels.size(panel); v++) {
                        vec q[4][4], second[4][4] = {};
                        long image = row / x.tile_rows(), r = row % x.tile_rows(), o = (panels.first(panel) + v) * WIDTH;
                        load_spread(g, image, r, STEP * p, o, q);
                        if (STEP == 2) load_spread(g, image, r, 2 * p + 1, o, second);
                        unit* to = (unit*)spread + panels.first(panel) * WIDTH * depth +
                                   (((row - origin) * pairs + p) * panels.size(panel) + v) * WIDTH;
#pragma GCC unroll 16
                        for (int place = 0; place < PLACES; place++)
                            put_unit(to + place * depth * outputs, q[place / 4][place % 4], second[place / 4][place % 4]);
                    }
    }

    void multiply(long item, long depth) {
        long place = item / panels.count, panel = item % panels.count, start = panels.first(panel) * WIDTH;
        int size = panels.size(panel);
        products<I, true>(size, inputs + place * depth * step, 1, step, spread + place * depth * outputs + start * depth, depth,
                          sums + place * x.channels * outputs + start * x.channels, size * WIDTH, x.channels);
    }

    void finish(long vector, float* w, const long* steps) {  // G^T sums G, into (O, C, 3, 3)
        long panel = panels.of(vector), start = panels.first(panel), size = panels.size(panel);
        for (long c = 0; c < x.channels; c++) {
            const float* from = sums + start * WIDTH * x.channels + (c * size + vector - start) * WIDTH;
            vec h[3][4];
            for (int j = 0; j < 4; j++) {
                vec m[4];
                for (int i = 0; i < 4; i++) m[i] = load(from + (4 * i + j) * x.channels * outputs);
                h[0][j] = m[0] + 0.5f * (m[1] + m[2]), h[1][j] = 0.5f * (m[1] - m[2]), h[2][j] = 0.5f * (m[1] + m[2]) + m[3];
            }
            for (int i = 0; i < 3; i++) {
                vec value[3] = {h[i][0] + 0.5f * (h[i][1] + h[i][2]), 0.5f * (h[i][1] - h[i][2]), 0.5f * (h[i][1] + h[i][2]) + h[i][3]};
                for (int j = 0; j < 3; j++)
                    for (long l = 0; l < WIDTH && vector * WIDTH + l < g.channels; l++)
                        w[(vector * WIDTH + l) * steps[0] + c * steps[1] + i * steps[2] + j * steps[3]] = value[j][l];
            }
        }
    }

    bool run(float* w, const long* steps, int threads) {
        static thread_local Room inputs_room, spread_room, sums_room;
        long rows = x.n * x.tile_rows(), chunk = std::min(rows, std::max<long>(threads, GRADIENT_TILES / columns));
        inputs = inputs_room.of<unit>(PLACES * chunk * pairs * step);
        spread = spread_room.of<float>(PLACES * chunk * pairs * outputs);
        sums = sums_room.of<float>(PLACES * x.channels * outputs);
        std::memset(sums, 0, PLACES * x.channels * outputs * sizeof(float));
        bool enough = true;
        for (long origin = 0; origin < rows && enough; origin += chunk)
            enough = add_chunk(origin, std::min(chunk, rows - origin), threads);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (long vector = 0; vector < panels.vectors; vector++) finish(vector, w, steps);
        return enough;
    }

    bool add_chunk(long origin, long count, int threads) {
        long depth = count * pairs, items = PLACES * panels.count;
        bool enough = true;
#pragma omp parallel num_threads(threads) reduction(&& : enough)
        {
            static thread_local Room room;
#pragma omp for schedule(static)
            for (long part = 0; part < threads; part++) {
                long first = origin + count * part / threads, last = origin + count * (part + 1) / threads;
                enough = succeeds([&] { transform_inputs(first, last, depth, origin, room); }) && enough;
                transform_gradients(first, last, depth, origin);
            }
#pragma omp for schedule(static)
            for (long item = 0; item < items; item++) multiply(item, depth);
        }
        return enough;
    }
};

template <class T>
bool convolve_any(const void* x, void* y, const long* shape, const float* factor, const float* constant, const float* packed,
                  const float* bias, int threads) {
    Picture<T> picture{(const T*)x, shape[0], shape[1], shape[2], shape[3], factor, constant};
    return convolve<T, Multiplied<T>>(picture, packed, Output<T>{(T*)y, shape[1], shape[2], shape[4], bias}, threads);
}

template <class T>
bool gradient_any(const void* x, const void* g, const long* shape, const float* factor, const float* constant, float* w,
                  const long* steps, int threads) {
    Picture<T> inputs{(const T*)x, shape[0], shape[1], shape[2], shape[3], factor, constant};
    Picture<T> outputs{(const T*)g, shape[0], shape[1], shape[2], shape[4], nullptr, nullptr};
    bool enough = true, whole = succeeds([&] { enough = KernelGradient<T, Multiplied<T>>(inputs, outputs).run(w, steps, threads); });
    return whole && enough;
}

}  // namespace

// x (N, H, W, C), y and g (N, H, W, O), w (O, C, 3, 3) with its steps; shape N, H, W, C, O; low: pictures are bfloat16. What returns int
// returns 0, or 1 where memory was short.
extern "C" {

long winograd_packed_floats(const long* shape, int low) {
    return low && PAIRS ? packed_floats<Low>(shape[3], shape[4]) : packed_floats<float>(shape[3], shape[4]);
}

void winograd_pack(const float* w, const long* steps, float* packed, const long* shape, int low, int threads) {
    (low && PAIRS ? pack<Low> : pack<float>)(w, packed, shape[3], shape[4], steps, threads);
}

int winograd_convolve(const void* x, void* y, const long* shape, const float* factor, const float* constant, const float* packed,
                      const float* bias, int low, int threads) {
    return !(low ? convolve_any<Low> : convolve_any<float>)(x, y, shape, factor, constant, packed, bias, threads);
}

int winograd_kernel_gradient(const void* x, const void* g, const long* shape, const float* factor, const float* constant, float* w,
                             const long* steps, int low, int threads) {
    return !(low ? gradient_any<Low> : gradient_any<float>)(x, g, shape, factor, constant, w, steps, threads);
}
}
