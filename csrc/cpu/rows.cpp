// Row kernel of the fused policy loss on CPU: one row of logits x [V] with target y, in place.
//   u = softcap(x) / tau;  p = softmax(u);  g_v = (c (1[v = y] - p_v) - e p_v (log p_v + H)) / tau * dz/dx
// Pass 1 reads the row once in blocks that fit L1 (running maximum, sums in double across blocks); pass 2
// reads and writes it once. float32 or bfloat16 tiles, float32 arithmetic. A row belongs to one thread, so
// results do not depend on the number of threads. Compiled once per instruction set (NSR_ISA).
#include "rows.h"

#include <cmath>

#include "vec.h"

namespace {

using namespace nsr;

constexpr int64_t kBlock = 2048;

struct Scale {
  float inv_temperature, softcap, inv_softcap;
};

struct RowSums {
  double m = -kInf;  // largest u
  double s = 0.0;    // sum exp(u - m)
  double t = 0.0;    // sum exp(u - m) (u - m)
  double q = 0.0;    // sum exp(u - m)^2
  double w = 0.0;    // sum exp(u - m)^2 (u - m)
  float chosen = 0.0f;

  void raise_max(double top) {
    if (top == m) return;
    if (s != 0.0) {  // also skips m = -inf, where the shift below would be NaN
      const double shift = m - top, factor = std::exp(shift);
      t = (t + s * shift) * factor;
      s *= factor;
      w = (w + q * shift) * factor * factor;
      q *= factor * factor;
    }
    m = top;
  }
};

template <bool HAS_SOFTCAP>
inline vfloat scaled(vfloat x, const Scale& k, vfloat* slope) {
  if (!HAS_SOFTCAP) return x * k.inv_temperature;
  const vfloat tanh = tanh_vec(x * k.inv_softcap);
  *slope = 1.0f - tanh * tanh;
  return tanh * k.softcap * k.inv_temperature;
}

// u of one block into `buffer`; returns its maximum, ignoring NaN.
template <class T, bool HAS_SOFTCAP>
float scale_block(const T* x, int64_t n, const Scale& k, float* buffer) {
  vfloat top = splat(-kInf), unused;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vfloat u = scaled<HAS_SOFTCAP>(load(x + i), k, &unused);
    store(buffer + i, u);
    top = u > top ? u : top;
  }
  if (i < n) {
    vfloat u = scaled<HAS_SOFTCAP>(load_part(x + i, n - i, T{}), k, &unused);
    for (int lane = static_cast<int>(n - i); lane < kLanes; ++lane) u[lane] = -kInf;
    store(buffer + i, u);
    top = u > top ? u : top;
  }
  float best = top[0];
  for (int lane = 1; lane < kLanes; ++lane) best = top[lane] > best ? top[lane] : best;
  return best;
}

void add_block(const float* u, int64_t n, RowSums& row) {
  const float m = static_cast<float>(row.m);
  vfloat s{}, t{}, q{}, w{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const vfloat d = load(u + i) - m;
    const vfloat clamped = clamp_low(d);
    const vfloat e = exp_or_zero(d, clamped);
    const vfloat ed = e * clamped;
    s += e;
    t += ed;
    q += e * e;
    w += e * ed;
  }
  row.s += sum_lanes(s);
  row.t += sum_lanes(t);
  row.q += sum_lanes(q);
  row.w += sum_lanes(w);
}

bool has_nan(const float* u, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (u[i] != u[i]) return true;
  return false;
}

template <class T, bool HAS_SOFTCAP>
RowSums sum_row(const T* x, int64_t vocab, int64_t target, const Scale& k) {
  alignas(64) float buffer[kBlock + kLanes];
  RowSums row;
  for (int64_t start = 0; start < vocab; start += kBlock) {
    const int64_t n = vocab - start < kBlock ? vocab - start : kBlock;
    const float top = scale_block<T, HAS_SOFTCAP>(x + start, n, k, buffer);
    if (target >= start && target < start + n) row.chosen = buffer[target - start];
    if (top > row.m) row.raise_max(top);
    if (row.m == -kInf) {  // only -inf (or NaN) so far: u - m would be NaN
      if (has_nan(buffer, n)) row.s = kNan;
      continue;
    }
    add_block(buffer, n, row);
  }
  return row;
}

struct RowResult {
  double logprob, entropy, log_sum;
  bool is_empty;  // every logit is -inf
};

RowResult finish_row(const RowSums& row, const StatsOut& out, int64_t r) {
  const bool is_empty = row.m == -kInf && row.s == 0.0;
  const double log_sum = std::log(row.s);
  RowResult result{(row.chosen - row.m) - log_sum, log_sum - row.t / row.s, log_sum, is_empty};
  if (is_empty) result.logprob = row.chosen, result.entropy = 0.0;
  if (result.logprob > 0.0) result.logprob = 0.0;
  if (result.entropy < 0.0) result.entropy = 0.0;
  const double p2 = is_empty ? 0.0 : row.q / row.s / row.s;
  out.logprob[r] = static_cast<float>(result.logprob);
  out.entropy[r] = static_cast<float>(result.entropy);
  out.lse[r] = static_cast<float>(is_empty ? row.m : row.m + log_sum);
  out.sum_p2[r] = static_cast<float>(p2);
  out.sum_p2_logp[r] = static_cast<float>(is_empty ? 0.0 : row.w / row.s / row.s - p2 * log_sum);
  out.greedy[r] = row.chosen >= row.m && !is_empty && row.s == row.s;
  return result;
}

// g = exp(u - base) * (a + b (u - base)) * slope, so that no logarithm is taken per element.
struct GradRow {
  float base, a, b, at_target;
};

GradRow grad_row(double c, double e, double base, double log_scale, double logprob, double entropy,
                 float slope_at_target, const Scale& k) {
  const double scale = std::exp(log_scale), p = std::exp(logprob);
  const double bend = p == 0.0 ? 0.0 : e * p * (logprob + entropy);
  GradRow g;
  g.base = static_cast<float>(base);
  g.a = static_cast<float>(-(c + e * (log_scale + entropy)) * scale * k.inv_temperature);
  g.b = static_cast<float>(-e * scale * k.inv_temperature);
  g.at_target = static_cast<float>((c * -std::expm1(logprob) - bend) * k.inv_temperature);
  g.at_target *= slope_at_target;
  return g;
}

template <bool HAS_SOFTCAP, bool HAS_E>
inline vfloat grad_vec(vfloat x, const GradRow& g, const Scale& k) {
  vfloat slope;
  const vfloat d = scaled<HAS_SOFTCAP>(x, k, &slope) - g.base;
  const vfloat clamped = clamp_low(d);
  vfloat y = exp_or_zero(d, clamped) * (HAS_E ? g.a + g.b * clamped : splat(g.a));
  if (HAS_SOFTCAP) y *= slope;
  return y;
}

template <class T, bool HAS_SOFTCAP, bool HAS_E>
void write_grad(T* x, int64_t vocab, int64_t target, const GradRow& g, const Scale& k) {
  int64_t i = 0;
  for (; i + kLanes <= vocab; i += kLanes)
    store(x + i, grad_vec<HAS_SOFTCAP, HAS_E>(load(x + i), g, k));
  if (i < vocab) {
    const vfloat part = load_part(x + i, vocab - i, T{});
    store_part(x + i, vocab - i, grad_vec<HAS_SOFTCAP, HAS_E>(part, g, k));
  }
  store_part(x + target, 1, splat(g.at_target));
}

// slope dz/dx at one element, and u through *u.
template <class T, bool HAS_SOFTCAP>
float slope_at(const T* x, const Scale& k, float* u) {
  vfloat slope = splat(1.0f);
  *u = scaled<HAS_SOFTCAP>(load_part(x, 1, T{}), k, &slope)[0];
  return slope[0];
}

inline float quiet(float x) { return x == x ? x : kNan; }

template <class T, bool HAS_SOFTCAP>
void one_row(const Tile& tile, int64_t r, const StatsOut* out, const Saved* saved,
             const Coefficients* coefficients) {
  const Scale k{1.0f / tile.temperature, tile.softcap, HAS_SOFTCAP ? 1.0f / tile.softcap : 0.0f};
  T* x = static_cast<T*>(tile.logits) + r * tile.stride;
  const int64_t y = tile.target[r];
  RowSums sums;
  RowResult result{};
  if (out) {
    sums = sum_row<T, HAS_SOFTCAP>(x, tile.vocab, y, k);
    result = finish_row(sums, *out, r);
  }
  if (!coefficients) return;
  const float c = quiet(coefficients->c[r]);
  const float e = coefficients->e ? quiet(coefficients->e[r]) : 0.0f;
  if (c == 0.0f && e == 0.0f) {
    std::memset(x, 0, tile.vocab * sizeof(T));
    return;
  }
  float chosen;
  const float slope = slope_at<T, HAS_SOFTCAP>(x + y, k, &chosen);
  double base = sums.m, log_scale = -result.log_sum;
  if (saved) {
    const double lse = saved->lse[r], gap = chosen - lse;
    base = lse, log_scale = 0.0;
    result = {gap > 0.0 ? 0.0 : gap, saved->entropy[r], 0.0, lse == -kInf};
  }
  if (result.is_empty) base = 0.0, log_scale = 0.0, result.logprob = -kInf;
  const GradRow g = grad_row(c, e, base, log_scale, result.logprob, result.entropy, slope, k);
  if (e == 0.0f)
    write_grad<T, HAS_SOFTCAP, false>(x, tile.vocab, y, g, k);
  else
    write_grad<T, HAS_SOFTCAP, true>(x, tile.vocab, y, g, k);
}

template <class T, bool HAS_SOFTCAP>
void all_rows(const Tile& tile, const StatsOut* out, const Saved* saved, const Coefficients* coef) {
  if (tile.rows == 0) return;
  // Waking a thread costs more than some 30,000 elements of work.
  const int64_t batch = tile.vocab < 32768 ? 32768 / tile.vocab : 1;
  const int64_t most = (tile.rows + batch - 1) / batch;
  const int threads = most < tile.num_threads ? static_cast<int>(most) : tile.num_threads;
#pragma omp parallel for schedule(dynamic, batch) num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < tile.rows; ++r) one_row<T, HAS_SOFTCAP>(tile, r, out, saved, coef);
}

void run(const Tile& tile, const StatsOut* out, const Saved* saved, const Coefficients* coef) {
  const bool has_softcap = tile.softcap > 0.0f;
  if (tile.type == TileType::float32)
    (has_softcap ? all_rows<float, true> : all_rows<float, false>)(tile, out, saved, coef);
  else
    (has_softcap ? all_rows<bfloat16, true> : all_rows<bfloat16, false>)(tile, out, saved, coef);
}

void stats(const Tile& tile, const StatsOut& out) { run(tile, &out, nullptr, nullptr); }

void grad(const Tile& tile, const Saved& saved, const Coefficients& coef) {
  run(tile, nullptr, &saved, &coef);
}

void stats_grad(const Tile& tile, const StatsOut& out, const Coefficients& coef) {
  run(tile, &out, nullptr, &coef);
}

}  // namespace

#define NSR_JOIN_(a, b) a##b
#define NSR_JOIN(a, b) NSR_JOIN_(a, b)
#define NSR_TEXT_(a) #a
#define NSR_TEXT(a) NSR_TEXT_(a)

const nsr::RowKernels nsr::NSR_JOIN(kernels_, NSR_ISA) = {NSR_TEXT(NSR_ISA), stats, grad,
                                                          stats_grad};
