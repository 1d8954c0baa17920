//! Medians, and how sure one can be of them.

/// Values of several rounds, the least first.
pub struct Rounds(Vec<f64>);

impl Rounds {
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        let (len, half) = (self.0.len(), self.0.len() / 2);
        match len {
            0 => f64::NAN,
            _ if len % 2 == 1 => self.0[half],
            _ => (self.0[half - 1] + self.0[half]) / 2.0,
        }
    }

    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// Median, and in brackets the least and the greatest.
    pub fn show(&self, digits: usize, unit: &str) -> String {
        let (median, min, max) = (self.median(), self.min(), self.max());
        format!("{median:.digits$}{unit} [{min:.digits$}–{max:.digits$}]")
    }

    /// Median, and in brackets the interval.
    pub fn show_interval(&self) -> String {
        let (low, high) = self.interval();
        format!("{:.3} [{low:.3}–{high:.3}]", self.median())
    }

    /// Where the true median lies with a probability of 95 % or more, whatever the distribution:
    /// between the k-th value from below and the k-th from above, where fewer than k of the
    /// rounds would fall on one side of it in 2.5 % of all cases at most (the sign test).
    pub fn interval(&self) -> (f64, f64) {
        let len = self.0.len();
        let mut below = 0.0;
        let mut k = 0;
        while k < len / 2 {
            below += binomial(len, k);
            if below > 0.025 {
                break;
            }
            k += 1;
        }
        let low = k.saturating_sub(1);
        match len {
            0 => (f64::NAN, f64::NAN),
            _ => (self.0[low], self.0[len - 1 - low]),
        }
    }
}

/// The probability that a fair coin falls on one side `k` times of `n`.
fn binomial(n: usize, k: usize) -> f64 {
    (0..k).fold(0.5f64.powi(n as i32), |p, i| p * (n - i) as f64 / (i + 1) as f64)
}
