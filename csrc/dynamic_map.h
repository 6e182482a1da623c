// The signed dynamic map of kernels/adamw_8bit_reference.py: the constants of its decades, computed in
// double from the formula and rounded once. With those of the decade that a value or code k is in,
//     value(k) = (18 k + kShift) kUnit        k = |y| kScale + kOffset, cut off, at most kLast
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
  static constexpr float kShift = float(9 - 16 * kFirst);
  static constexpr float kUnit = float(1 / denominator(I));
  static constexpr float kScale = float(kFirst * power_of_10(7 - I) / 9);
  static constexpr float kOffset = float(8 * kFirst / 9.0);
  static constexpr float kLast = float(2 * kFirst - 1);
  // From which |y| on it is nearest, for all but the first.
  static constexpr float kFloor = float((map_value(kFirst - 1) + map_value(kFirst)) / 2);
};

constexpr float kSmallest = float(map_value(1) / 2);          // below it the code is 0
constexpr float kLargest = float((map_value(127) + 1.0) / 2);  // from it on the value is +1
constexpr float kOne = 128.0f;                                 // its code, as int8: -128

}  // namespace
