// Attention, softmax(q k^T / sqrt(d)) v for each head, and its gradients, a few vectors of queries at a time against all keys, so that the
// weights never leave the cache (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). Kept for the way back: the result and each
// query's lse = log sum over keys of exp(q k / sqrt(d)), from which the weights P = exp(q k / sqrt(d) - lse) are computed again.
//
//     out = P v,   D = sum over channels of g out,   dv = P^T g,   dS = P * (g v^T - D),   dq = dS k / sqrt(d),   dk = dS^T q / sqrt(d)
//
// The lanes of a vector are queries, so that heads of a few channels cost no more than they must: scores S^T = k q^T and weights P^T are
// (keys x queries), results out^T = v^T P^T and dq^T = k^T dS^T (channels x queries). Softmax and all sums are in float; what is
// multiplied is float, or pairs of bfloat16.

#include <cmath>

#include "kernels.h"
#include "products.h"

namespace {

template <class T> struct Heads {  // (n, places, heads x d), `step` values from place to place
    T* data;
    long places, d, step;
    T* of(long image, long head) const { return data + image * places * step + head * d; }
};

// ---- What is multiplied, in the order in which it is read ----

template <class T> using Unit = typename Element<Multiplied<T>>::unit;  // one value, or two neighbours of k
template <class T> constexpr int STEP = at_once<Multiplied<T>>();
template <class T> constexpr long steps(long k) { return up(k, STEP<T>) / STEP<T>; }

// (places, k): k runs over channels.
template <class T> void by_place(const T* from, long step, long places, long d, Unit<T>* to) {
    typedef std::conditional_t<sizeof(Unit<T>) / STEP<T> == 2, Low, float> Value;
    long width = steps<T>(d) * STEP<T>;
    for (long place = 0; place < places; place++, from += step, to += steps<T>(d)) {
        Value* row = (Value*)to;
        long c = 0;
        if (std::is_same<T, Value>::value)  // by 16 bytes, as most rows are few of them
            for (constexpr long PIECE = 16 / sizeof(T); c + PIECE <= d; c += PIECE) std::memcpy((void*)(row + c), from + c, 16);
        for (; c < d; c += WIDTH) store_up_to(row + c, load_up_to(from + c, d - c), d - c);
        if (width > d) std::memset((void*)(row + d), 0, sizeof(Value));
    }
}

// For each panel of channels (k, channels): k runs over places, of which there are `depth` steps, the last of them zeros.
template <class T> void by_channel(const T* from, long step, long places, const Panels& panels, long d, long depth, Unit<T>* to) {
    for (long panel = 0; panel < panels.count; panel++)
        for (long k = 0; k < depth; k++)
            for (long vector = panels.first(panel); vector < panels.first(panel + 1); vector++, to += WIDTH) {
                long place = k * STEP<T>, c = vector * WIDTH;
                vec rows[2] = {};
                for (int i = 0; i < STEP<T> && place + i < places && c < d; i++) rows[i] = load_up_to(from + (place + i) * step + c, d - c);
                put_unit(to, rows[0], rows[1]);
            }
}

// (k, lanes) of some places of what `by_place` made: k runs over channels.
template <class U> void turned(const U* rows, long depth, long places, long lanes, U* to) {
    long k = 0;
#if defined(__AVX512F__)
    for (; k + 4 <= depth; k += 4)
        for (long lane = 0; lane < lanes; lane += WIDTH) {
            Fours fours;
            fours.read([&](long i) { return lane + i < places ? rows + (lane + i) * depth + k : nullptr; });
            for (int i = 0; i < 4; i++) put(to + (k + i) * lanes + lane, fours.word[i]);
        }
#endif
    for (; k < depth; k++)
        for (long lane = 0; lane < lanes; lane++) to[k * lanes + lane] = lane < places ? rows[lane * depth + k] : U(0);
}

// What `by_channel` made of no more channels than half a vector -> half as many vectors, two steps' channels in turns.
inline void fold(words* steps, long depth) {
    for (long k = 0; k < depth; k += 2) put(steps + k / 2, in_turns(get<words>(steps + k), get<words>(steps + k + 1)));
}

// ---- One head ----

template <class T> struct Sizes {
    long places, d;
    Panels queries, channels;
    long of_channels, of_places;  // steps of k over them

    Sizes(long places, long d)
        : places(places), d(d), queries(places), channels(d), of_channels(steps<T>(d)), of_places(steps<T>(up(places, LANES))) {}
    long panel_places(long panel) const { return std::min(queries.size(panel) * (long)WIDTH, places - queries.first(panel) * WIDTH); }
    bool folded() const { return std::is_same<Multiplied<T>, Low>::value && d <= WIDTH / 2; }  // two steps of k in a vector
    long wide() const { return up(d, LANES); }
    long block() const { return WIDEST * WIDTH; }  // the most lanes of a panel of queries
};

// c^T (channels x lanes) = what `by_channel` made, turned, times b (places x lanes).
template <class T> void channels_of(const Sizes<T>& s, const Unit<T>* by_channel, const float* b, int vectors, float* c) {
    for (long panel = 0; panel < s.channels.count; panel++) {
        long first = s.channels.first(panel) * WIDTH, size = s.channels.size(panel) * WIDTH, lanes = vectors * WIDTH;
        products<Multiplied<T>, false>(vectors, by_channel + first * s.of_places, 1, size, b, steps<T>(s.places), c + first * lanes, lanes,
                                       std::min(size, s.d - first));
    }
}

// c (places x channels) += a (places x lanes) times the lanes' rows of what `by_channel` made.
template <class T> void add_to_places(const Sizes<T>& s, const Unit<T>* a, const Unit<T>* by_channel, long query, long lanes, float* c) {
    if (s.folded())
        return products<Pairs, true>(1, (const int64_t*)a, lanes / 4, 1, (const float*)by_channel + query / 4 * WIDTH, lanes / 4, c, WIDTH,
                                     s.places);
    for (long panel = 0; panel < s.channels.count; panel++) {
        long first = s.channels.first(panel) * WIDTH, size = s.channels.size(panel) * WIDTH, row = lanes / STEP<T>;
        products<Multiplied<T>, true>(s.channels.size(panel), a, row, 1,
                                      (const float*)by_channel + first * s.of_places + query / STEP<T> * size, row, c + first, s.wide(),
                                      s.places);
    }
}

// Of each lane the word that starts a row's channels: one value, or two of bfloat16.
template <class T> inline words word(const float* c, long lanes) {
    return sizeof(T) == 2 ? paired(load(c), load(c + lanes)) : (words)load(c);
}

// c^T (channels x lanes) into rows of places.
template <class T> void put_turned(const float* c, long lanes, long places, long d, T* to, long step) {
    long channel = 0;
#if defined(__AVX512F__)
    for (constexpr long AT_ONCE = 16 / sizeof(T); channel + AT_ONCE <= d; channel += AT_ONCE)
        for (long first = 0; first < places; first += WIDTH) {
            Fours fours;
            for (int i = 0; i < 4; i++) fours.word[i] = word<T>(c + (channel + i * AT_ONCE / 4) * lanes + first, lanes);
            fours.write([&](long i) { return first + i < places ? to + (first + i) * step + channel : nullptr; });
        }
#endif
    T lane[WIDTH];
    for (; channel < d; channel++)
        for (long first = 0; first < places; first += WIDTH) {
            store(lane, load(c + channel * lanes + first));
            for (long i = 0; i < std::min<long>(WIDTH, places - first); i++) to[(first + i) * step + channel] = lane[i];
        }
}

template <class T> struct Forward {
    Sizes<T> s;
    float scale;
    Unit<T> *keys, *queries, *values, *panel;  // by place, by place, by channel, (k, lanes)
    float *scores, *weights, *result;

    Forward(long places, long d) : s(places, d), scale(1 / std::sqrt(float(d))) {
        static thread_local Scratch scratch[7];
        keys = scratch[0].of<Unit<T>>(places * s.of_channels);
        queries = scratch[1].of<Unit<T>>(places * s.of_channels);
        values = scratch[2].of<Unit<T>>(s.of_places * s.wide());
        panel = scratch[3].of<Unit<T>>(s.of_channels * s.block());
        scores = scratch[4].of<float>(places * s.block());
        weights = scratch[5].of<float>(steps<T>(places) * s.block());
        result = scratch[6].of<float>(d * s.block());
    }

    // A vector of queries: its scores -> exp(scale (S - largest)) for the product with the values; 1 / their sum; lse.
    ALONE vec softmax(int v, long lanes, float* lse) {
        const float *from = scores + v * WIDTH, rate = scale * LOG2_E;
        Unit<T>* to = (Unit<T>*)weights + v * WIDTH;
        vec largest = load(from), other = largest, total[2] = {};  // two at a time, as the next waits for the last
        for (long key = 0; key < s.places; key += 2) {
            largest = larger(largest, load(from + key * lanes));
            other = larger(other, load(from + std::min(key + 1, s.places - 1) * lanes));
        }
        largest = larger(largest, other);
        const vec top = largest * rate;
        long key = 0;
        for (; key + STEP<T> <= s.places; key += STEP<T>, from += STEP<T> * lanes, to += lanes) {
            vec e[2];
            for (int i = 0; i < STEP<T>; i++) total[i] += e[i] = power_of_two<Multiplied<T>>(load(from + i * lanes) * rate - top);
            put_unit(to, e[0], e[1]);
        }
        if (key < s.places) {
            vec e = power_of_two<Multiplied<T>>(load(from) * rate - top);
            total[0] += e;
            put_unit(to, e, vec{});
        }
        total[0] += total[1];
        for (int i = 0; i < WIDTH; i++) lse[i] = largest[i] * scale + std::log(total[0][i]);
        return 1.f / total[0];
    }

    void run(const T* q, const T* k, const T* v, long step, T* out, long out_step, float* lse) {
        by_place(q, step, s.places, s.d, queries);
        by_place(k, step, s.places, s.d, keys);
        by_channel(v, step, s.places, s.channels, s.d, s.of_places, values);
        for (long p = 0; p < s.queries.count; p++) {
            int vectors = s.queries.size(p);
            long first = s.queries.first(p) * WIDTH, lanes = vectors * WIDTH;
            turned(queries + first * s.of_channels, s.of_channels, s.panel_places(p), lanes, panel);
            products<Multiplied<T>, false>(vectors, keys, s.of_channels, 1, (const float*)panel, s.of_channels, scores, lanes, s.places);
            vec by_total[WIDEST];
            for (int i = 0; i < vectors; i++) {
                float found[WIDTH];
                by_total[i] = softmax(i, lanes, found);
                long some = std::min<long>(WIDTH, s.panel_places(p) - i * WIDTH);
                if (some > 0) std::memcpy(lse + first + i * WIDTH, found, some * sizeof(float));
            }
            channels_of<T>(s, values, weights, vectors, result);
            for (long c = 0; c < s.d; c++)
                for (int i = 0; i < vectors; i++) {
                    float* at = result + c * lanes + i * WIDTH;
                    store(at, load(at) * by_total[i]);
                }
            put_turned(result, lanes, s.panel_places(p), s.d, out + first * out_step, out_step);
        }
    }
};

template <class T> struct Backward {
    Sizes<T> s;
    float scale;
    Unit<T> *keys, *values, *queries, *gradients;               // by place
    Unit<T> *keys_by_channel, *queries_by_channel, *gradients_by_channel;
    Unit<T> *query_panel, *gradient_panel, *weights, *slopes;    // (k, lanes) twice; P^T and dS^T, lanes together
    float *scores, *towards, *paired_slopes, *result, *of_keys, *of_values, *inner;  // `inner` is D

    Backward(long places, long d) : s(places, d), scale(1 / std::sqrt(float(d))) {
        static thread_local Scratch scratch[18];
        Scratch* buffer = scratch;
        for (Unit<T>** rows : {&keys, &values, &queries, &gradients}) *rows = buffer++->of<Unit<T>>(places * s.of_channels);
        for (Unit<T>** rows : {&keys_by_channel, &queries_by_channel, &gradients_by_channel})
            *rows = buffer++->of<Unit<T>>(s.of_places * s.wide());
        for (Unit<T>** lanes : {&query_panel, &gradient_panel}) *lanes = buffer++->of<Unit<T>>(s.of_channels * s.block());
        for (Unit<T>** rows : {&weights, &slopes}) *rows = buffer++->of<Unit<T>>(places * s.block() / STEP<T>);
        for (float** rows : {&scores, &towards, &paired_slopes}) *rows = buffer++->of<float>(up(places, LANES) * s.block());
        for (float** rows : {&of_keys, &of_values}) *rows = buffer++->of<float>(places * s.wide());
        result = buffer++->of<float>(d * s.block());
        inner = buffer++->of<float>(up(places, LANES) + LANES);
    }

    void sum_inner(const T* g, const T* out, long step) {
        for (long place = 0; place < s.places; place++) {
            vec sum = {};
            for (long c = 0; c < s.d; c += WIDTH) sum += load_up_to(g + place * step + c, s.d - c) * load_up_to(out + place * step + c, s.d - c);
            inner[place] = total_of(sum);
        }
        std::memset(inner + s.places, 0, (up(s.places, LANES) - s.places) * sizeof(float));
    }

    // A vector of queries: S and g v^T -> P and dS, in rows and, for the product with the keys, in pairs.
    ALONE void slopes_of(int v, long lanes, vec lse, vec d) {
        const float rate = scale * LOG2_E;
        const vec top = lse * LOG2_E;
        long at = v * WIDTH, key = 0;
        Unit<T>* pairs = (Unit<T>*)paired_slopes + at;
        auto slope = [&] {
            vec p = power_of_two<Multiplied<T>>(load(scores + at) * rate - top), of = p * (load(towards + at) - d);
            put_row(weights + at / STEP<T>, p);
            put_row(slopes + at / STEP<T>, of);
            at += lanes;
            return of;
        };
        for (; key + STEP<T> <= s.places; key += STEP<T>, pairs += lanes) {
            vec first = slope();
            put_unit(pairs, first, STEP<T> == 2 ? slope() : vec{});
        }
        if (key < s.places) put_unit(pairs, slope(), vec{});
    }

    void put_scaled(const float* from, float by, T* to, long step) {
        for (long place = 0; place < s.places; place++)
            for (long c = 0; c < s.d; c += WIDTH) {
                vec sum = load(from + place * s.wide() + c);
                store_up_to(to + place * step + c, (s.folded() ? neighbours_added(sum) : sum) * by, s.d - c);
            }
    }

    void run(const T* q, const T* k, const T* v, long step, const T* out, const T* g, long out_step, const float* lse, T* gq, T* gk, T* gv) {
        by_place(q, step, s.places, s.d, queries);
        by_place(k, step, s.places, s.d, keys);
        by_place(v, step, s.places, s.d, values);
        by_place(g, out_step, s.places, s.d, gradients);
        by_channel(q, step, s.places, s.channels, s.d, s.of_places, queries_by_channel);
        by_channel(k, step, s.places, s.channels, s.d, s.of_places, keys_by_channel);
        by_channel(g, out_step, s.places, s.channels, s.d, s.of_places, gradients_by_channel);
        if (s.folded())
            for (Unit<T>* rows : {queries_by_channel, gradients_by_channel}) fold((words*)rows, s.of_places);
        sum_inner(g, out, out_step);
        std::memset(of_keys, 0, s.places * s.wide() * sizeof(float));
        std::memset(of_values, 0, s.places * s.wide() * sizeof(float));
        for (long p = 0; p < s.queries.count; p++) {
            int vectors = s.queries.size(p);
            long first = s.queries.first(p) * WIDTH, lanes = vectors * WIDTH, some = s.panel_places(p);
            turned(queries + first * s.of_channels, s.of_channels, some, lanes, query_panel);
            turned(gradients + first * s.of_channels, s.of_channels, some, lanes, gradient_panel);
            products<Multiplied<T>, false>(vectors, keys, s.of_channels, 1, (const float*)query_panel, s.of_channels, scores, lanes, s.places);
            products<Multiplied<T>, false>(vectors, values, s.of_channels, 1, (const float*)gradient_panel, s.of_channels, towards, lanes,
                                           s.places);
            for (int i = 0; i < vectors; i++) {
                long query = first + i * WIDTH;
                vec of_lse = query < s.places ? load_up_to(lse + query, s.places - query) : all(0);
                slopes_of(i, lanes, of_lse, load(inner + query));
            }
            add_to_places<T>(s, weights, gradients_by_channel, first, lanes, of_values);
            add_to_places<T>(s, slopes, queries_by_channel, first, lanes, of_keys);
            channels_of<T>(s, keys_by_channel, paired_slopes, vectors, result);
            for (long i = 0; i < s.d * lanes; i += WIDTH) store(result + i, load(result + i) * scale);
            put_turned(result, lanes, some, s.d, gq + first * step, step);
        }
        put_scaled(of_keys, scale, gk, step);
        put_scaled(of_values, 1, gv, step);
    }
};

// ---- All heads ----

struct Shape { long n, places, heads, d; };

template <class Of> bool every_head(const Shape& shape, [[maybe_unused]] int threads, Of of) {
    bool enough = true;
    [[maybe_unused]] long together = shape.n >= 4 * threads ? shape.heads : 1;  // heads of a picture share lines of the cache
#pragma omp parallel for num_threads(threads) schedule(dynamic, together) reduction(&& : enough)
    for (long item = 0; item < shape.n * shape.heads; item++)
        enough = succeeds([&] { of(item / shape.heads, item % shape.heads); }) && enough;
    return enough;
}

template <class T> bool forward(const T* qkv, T* out, float* lse, const Shape& s, int threads) {
    long width = s.heads * s.d;
    Heads<const T> in{qkv, s.places, s.d, 3 * width};
    Heads<T> to{out, s.places, s.d, width};
    return every_head(s, threads, [&](long image, long head) {
        const T* q = in.of(image, head);
        Forward<T>(s.places, s.d).run(q, q + width, q + 2 * width, in.step, to.of(image, head), to.step, lse + (image * s.heads + head) * s.places);
    });
}

template <class T> bool backward(const T* qkv, const T* out, const T* g, const float* lse, T* gqkv, const Shape& s, int threads) {
    long width = s.heads * s.d;
    Heads<const T> in{qkv, s.places, s.d, 3 * width}, result{out, s.places, s.d, width}, gradient{g, s.places, s.d, width};
    Heads<T> to{gqkv, s.places, s.d, 3 * width};
    return every_head(s, threads, [&](long image, long head) {
        const T* q = in.of(image, head);
        T* gq = to.of(image, head);
        Backward<T>(s.places, s.d).run(q, q + width, q + 2 * width, in.step, result.of(image, head), gradient.of(image, head), result.step,
                                       lse + (image * s.heads + head) * s.places, gq, gq + width, gq + 2 * width);
    });
}

}  // namespace

extern "C" {

int attention(const void* qkv, void* out, float* lse, const long* shape, int low, int threads) {
    Shape s{shape[0], shape[1], shape[2], shape[3]};
    return !(low ? forward((const Low*)qkv, (Low*)out, lse, s, threads) : forward((const float*)qkv, (float*)out, lse, s, threads));
}

int attention_gradients(const void* qkv, const void* out, const void* g, const float* lse, void* gqkv, const long* shape, int low, int threads) {
    Shape s{shape[0], shape[1], shape[2], shape[3]};
    if (low) return !backward((const Low*)qkv, (const Low*)out, (const Low*)g, lse, (Low*)gqkv, s, threads);
    return !backward((const float*)qkv, (const float*)out, (const float*)g, lse, (float*)gqkv, s, threads);
}
}
