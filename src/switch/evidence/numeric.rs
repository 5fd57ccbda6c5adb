//! Sums of exponents, and the Chernoff bound of a rate.

/// ln(eᵃ + eᵇ) without overflow; −∞ is the zero of it.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    high + (low - high).exp().ln_1p()
}

/// ln Σ eˣ; −∞ for nothing.
pub(super) fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + values.map(|value| (value - high).exp()).sum::<f64>().ln()
}

/// Kullback-Leibler divergence of two coins, in nats.
pub(super) fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

/// The largest rate that `failures` of `requests` do not rule out at `alpha`: the Chernoff bound,
/// which at no failures is the exact limit of Clopper and Pearson (Biometrika 26, 1934).
/// Fractions are allowed, because a dispersed count is worth less than its number. 1 without
/// requests.
pub(super) fn upper_bound(failures: f64, requests: f64, alpha: f64) -> f64 {
    if requests <= 0.0 {
        return 1.0;
    }
    let rate = failures / requests;
    let allowed = alpha.recip().ln();
    let (mut low, mut high) = (rate, 1.0);
    // As many halvings as a double has bits worth halving.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if requests * divergence(rate, middle.min(1.0 - 1e-15)) <= allowed {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_failures_is_the_exact_limit_of_clopper_and_pearson() {
        for requests in [100.0_f64, 1_000.0, 86_400.0] {
            let exact = 1.0 - 2e-5_f64.powf(requests.recip());
            let bound = upper_bound(0.0, requests, 2e-5);
            assert!((bound - exact).abs() < 1e-12, "{requests}: {bound} {exact}");
        }
        assert!((upper_bound(0.0, 0.0, 2e-5) - 1.0).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn the_bound_is_above_the_rate_and_falls_with_more_requests(
            failures in 0_u32..1_000, more in 0_u32..100_000, alpha in 1e-6_f64..0.5,
        ) {
            let (failures, requests) = (f64::from(failures), f64::from(failures + more + 1));
            let bound = upper_bound(failures, requests, alpha);
            prop_assert!(bound >= failures / requests && bound <= 1.0);
            prop_assert!(upper_bound(10.0 * failures, 10.0 * requests, alpha) <= bound + 1e-12);
        }

        #[test]
        fn sums_of_exponents_are_those_of_plain_arithmetic(a in -30.0_f64..30.0, b in -30.0_f64..30.0) {
            let plain = (a.exp() + b.exp()).ln();
            prop_assert!((log_add(a, b) - plain).abs() < 1e-9);
            prop_assert!((log_sum([a, b].into_iter()) - plain).abs() < 1e-9);
            prop_assert_eq!(log_add(a, f64::NEG_INFINITY), a);
        }
    }
}
