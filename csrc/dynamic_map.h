// The signed dynamic map of kernels/adamw_8bit_reference.py: which decade a value or a code is in, and
// its constants, computed here in double from the formula and rounded once. F is float, or a vector of
// floats on the CPU; the arithmetic with these constants is the backend's, whose roundings count.
// Included after the definition of NSR_DEVICE, "inline" on the CPU.
#pragma once

namespace {

constexpr double power_of_10(int n) { return n == 0 ? 1.0 : 10.0 * power_of_10(n - 1); }

constexpr int decade_of(int k) { return k < 2 ? 0 : 1 + decade_of(k / 2); }

// 20 10^(6-i) 2^i: what the integer 18 k + 9 - 16 2^i is divided by.
constexpr double denominator(int decade) { return 20 * power_of_10(6 - decade) * (1 << decade); }

constexpr double map_value(int k) {
  return (18 * k + 9 - 16 * (1 << decade_of(k))) / denominator(decade_of(k));
}

template <int I>
struct Decade {
  static constexpr int kFirst = 1 << I;  // its first code; it has as many
  static constexpr float kUnit = float(1 / denominator(I));
  static constexpr float kScale = float(kFirst * power_of_10(7 - I) / 9);
  static constexpr float kOffset = float(8 * kFirst / 9.0);
  static constexpr float kFloor = float((map_value(kFirst - 1) + map_value(kFirst)) / 2);
};

constexpr float kSmallest = float(map_value(1) / 2);          // below it the code is 0
constexpr float kLargest = float((map_value(127) + 1.0) / 2);  // from it on the value is +1
constexpr float kOne = 128.0f;                                 // its code, as int8: -128

// |y| scale + offset, cut off and at most `last`, is the code.
template <class F>
struct Encoding {
  F scale, offset, last;
};

template <int I = 0, class F>
NSR_DEVICE void pick_encoding(F size, Encoding<F>& to) {
  using D = Decade<I>;
  const F last = F{} + float(2 * D::kFirst - 1);
  if constexpr (I == 0) {
    to = {F{} + D::kScale, F{} + D::kOffset, last};
  } else {
    to.scale = size >= D::kFloor ? F{} + D::kScale : to.scale;
    to.offset = size >= D::kFloor ? F{} + D::kOffset : to.offset;
    to.last = size >= D::kFloor ? last : to.last;
  }
  if constexpr (I < 6) pick_encoding<I + 1>(size, to);
}

// (18 k + shift) unit is the value of a code k in [1, 127].
template <class F>
struct Decoding {
  F shift, unit;
};

template <int I = 0, class F>
NSR_DEVICE void pick_decoding(F k, Decoding<F>& to) {
  using D = Decade<I>;
  const F shift = F{} + float(9 - 16 * D::kFirst);
  if constexpr (I == 0) {
    to = {shift, F{} + D::kUnit};
  } else {
    to.shift = k >= float(D::kFirst) ? shift : to.shift;
    to.unit = k >= float(D::kFirst) ? F{} + D::kUnit : to.unit;
  }
  if constexpr (I < 6) pick_decoding<I + 1>(k, to);
}

}  // namespace
