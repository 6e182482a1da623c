"""The exact value of a sympy tree that is a rational number, in bounded time.

    Fraction, None where the tree is anything else, TooLargeError where the value is too long

Integers and rationals are never compared by floats: 2^100 and 2^100 - 1 share thirty digits.
Handled: numbers, symbols with given values, + * ^ with integer exponents, factorials, binomials,
absolute value, floor and ceiling.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import sympy

MAX_INTEGER_BITS = 4_000_000
MAX_FRACTION_BITS = 200_000  # sums of fractions need their greatest common divisor
MAX_FACTORIAL = 100_000

Values = Mapping[sympy.Symbol, Fraction]


class TooLargeError(ArithmeticError):
    """A rational value that is not computed."""


def exact_value(tree: sympy.Basic, values: Values | None = None) -> Fraction | None:
    """The value of `tree` where it is rational by its structure and defined."""
    if tree.is_Rational:
        return Fraction(int(tree.p), int(tree.q))
    if tree.is_Symbol:
        return values.get(tree) if values else None
    combine = next((f for kind, f in _COMBINE if isinstance(tree, kind)), None)
    if combine is None:
        return None
    arguments = []
    for argument in tree.args:
        value = exact_value(argument, values)
        if value is None:
            return None
        arguments.append(value)
    return combine(*arguments)


def _checked(bits: float, is_integer: bool) -> None:
    if bits > (MAX_INTEGER_BITS if is_integer else MAX_FRACTION_BITS):
        raise TooLargeError(f"a value of {bits:.3g} bits")


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _sum(*terms: Fraction) -> Fraction:
    total = Fraction(0)
    for term in terms:
        total += term
        _checked(_bits(total), total.denominator == 1)
    return total


def _product(*factors: Fraction) -> Fraction:
    result = Fraction(1)
    for factor in factors:
        is_integer = result.denominator == 1 == factor.denominator
        _checked(_bits(result) + _bits(factor), is_integer)
        result *= factor
    return result


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        return None
    power = int(exponent)
    if base not in (0, 1, -1):
        _checked(_bits(base) * abs(power), base.denominator == 1 or base.numerator in (1, -1))
    return base**power


def _factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > MAX_FACTORIAL:
        raise TooLargeError(f"the factorial of {n}")
    return Fraction(math.factorial(int(n)))


def _double_factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > MAX_FACTORIAL:
        raise TooLargeError(f"the double factorial of {n}")
    return Fraction(math.prod(range(int(n), 0, -2)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return None
    if n > MAX_FACTORIAL:
        raise TooLargeError(f"binomials of {n}")
    return Fraction(math.comb(int(n), int(k)))


_COMBINE = (
    (sympy.Add, _sum),
    (sympy.Mul, _product),
    (sympy.Pow, _power),
    (sympy.UnevaluatedExpr, lambda value: value),
    (sympy.factorial, _factorial),
    (sympy.factorial2, _double_factorial),
    (sympy.binomial, _binomial),
    (sympy.Abs, abs),
    (sympy.floor, lambda value: Fraction(math.floor(value))),
    (sympy.ceiling, lambda value: Fraction(math.ceil(value))),
)
