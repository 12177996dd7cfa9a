"""Polar Express: the odd polynomials of degree 5 that bring singular values to 1 in the fewest steps.

    p_t(x) = a_t x + b_t x³ + c_t x⁵       least of max |1 - p_t(x)| over [l_t, u_t]
    l_{t+1} = p_t(l_t),  u_{t+1} = 2 - l_{t+1}                        l_1 = 10⁻³, u_1 = 1

Of all compositions of k such polynomials this one is nearest to 1 on [l_1, 1], except for two changes that rounding
requires. An l_t below a share of u_t is raised to that share, and the polynomial is then scaled so that its values at
l_t and u_t are equally far from 1: otherwise large singular values would fall in between as low as the smallest rise.
And x is divided by 1.01 as long as l_t and u_t differ, since a polynomial grows steeply beyond u_t: with products
rounded as in bfloat16, a matrix of rank 1 would otherwise diverge.

Source: Amsel, Persson, Musco & Gower 2025, arXiv:2505.16932, Algorithm 1; the numbers are those of the authors' code.
Departs: nothing.
"""

import math
from collections.abc import Sequence
from functools import cache

MIN_SINGULAR_VALUE = 1e-3  # l_1
MIN_RATIO = 0.02407327424182761  # of l_t to u_t
SAFETY_FACTOR = 1.01
# Above this l/u the polynomial is that of Newton and Schulz to all digits, and the exchange would divide 0 by 0.
_CONVERGED_RATIO = 1 - 5e-6
_NUM_EXCHANGES = 6  # each squares the error; the fifth changes nothing any more

Polynomial = tuple[float, float, float]


@cache
def polar_express(num_steps: int) -> Sequence[Polynomial]:
    """Return the coefficients (a, b, c) of each of `num_steps` steps."""
    low, high = MIN_SINGULAR_VALUE, 1.0
    polynomials = []
    for _ in range(num_steps):
        polynomial = minimax(max(low, MIN_RATIO * high), high)
        scale = 2 / (evaluate(polynomial, low) + evaluate(polynomial, high))  # 1 if low was not raised
        a, b, c = (scale * coefficient for coefficient in polynomial)
        safety = SAFETY_FACTOR if low / high < _CONVERGED_RATIO else 1.0
        polynomials.append((a / safety, b / safety**3, c / safety**5))
        low = evaluate((a, b, c), low)
        high = 2 - low
    return tuple(polynomials)


def evaluate(polynomial: Polynomial, x: float) -> float:
    """Return the value of a polynomial at x."""
    a, b, c = polynomial
    return x * (a + x**2 * (b + x**2 * c))


def minimax(low: float, high: float) -> Polynomial:
    """Return the odd polynomial of degree 5 that is nearest to 1 on [low, high], by the exchange algorithm of Remez.

    Its error has the same size and alternating signs at four points, the ends among them (Chebyshev). The two points in
    between are those where its slope is 0.
    """
    if low / high > _CONVERGED_RATIO:
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    points = [low, (3 * low + high) / 4, (low + 3 * high) / 4, high]
    for _ in range(_NUM_EXCHANGES):
        a, b, c = _alternating(points)
        spread = math.sqrt(9 * b**2 - 20 * a * c)
        points[1:3] = (math.sqrt((-3 * b + sign * spread) / (10 * c)) for sign in (-1, 1))
    return a, b, c


def _alternating(points: Sequence[float]) -> Polynomial:
    """Return the polynomial x s(x²) that is 1 - E, 1 + E, 1 - E and 1 + E at four points, for some E.

    A quadratic s goes through four values if their third divided difference is 0, which is linear in E.
    """
    squares = [x**2 for x in points]
    weights = [1 / math.prod(y - z for z in squares if z != y) for y in squares]
    shares = [weight / x for weight, x in zip(weights, points, strict=True)]
    error = sum(shares) / (shares[0] - shares[1] + shares[2] - shares[3])
    s = [(1 - sign * error) / x for sign, x in zip((1, -1, 1), points[:3], strict=True)]
    first, second = ((s[k + 1] - s[k]) / (squares[k + 1] - squares[k]) for k in (0, 1))
    c = (second - first) / (squares[2] - squares[0])
    b = first - c * (squares[0] + squares[1])
    return s[0] - squares[0] * (b + c * squares[0]), b, c
