//! Values in the query of a URL, read as upstream's API machinery reads them.

/// Whether a parameter that is there means yes: anything does but `0` and `false`. Clients also write `True`.
pub fn flag(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::flag;

    #[test]
    fn only_zero_and_false_mean_no() {
        for (value, want) in
            [("true", true), ("True", true), ("1", true), ("", true), ("0", false), ("False", false)]
        {
            assert_eq!(flag(value), want, "{value:?}");
        }
    }
}
