//! Tables that fit the terminal: the least important columns leave a narrow one.

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column<T> {
    pub(crate) name: &'static str,
    /// Characters, with the space before it.
    pub(crate) width: usize,
    /// The columns with the highest rank leave first, those with rank 0 stay.
    pub(crate) rank: u8,
    /// The figure in this column.
    pub(crate) of: T,
}

/// The columns that fit into `width` characters beside the names of the rows. `None`: all fit.
pub(crate) fn fitting<T: Copy>(
    all: &[Column<T>],
    names_width: usize,
    width: Option<usize>,
) -> Vec<Column<T>> {
    let mut columns = all.to_vec();
    let Some(width) = width else { return columns };
    while names_width + columns.iter().map(|column| column.width).sum::<usize>() > width {
        let leaver =
            (0..columns.len()).filter(|nth| columns[*nth].rank > 0).max_by_key(|nth| columns[*nth].rank);
        let Some(leaver) = leaver else { break };
        columns.remove(leaver);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_columns_leave_first() {
        let column = |name, rank| Column { name, width: 10, rank, of: () };
        let all = [column("a", 0), column("b", 2), column("c", 1), column("d", 2)];
        let names = |width| -> String { fitting(&all, 5, width).iter().map(|column| column.name).collect() };
        assert_eq!(names(None), "abcd");
        assert_eq!(names(Some(45)), "abcd");
        assert_eq!(names(Some(44)), "abc");
        assert_eq!(names(Some(34)), "ac");
        assert_eq!(names(Some(24)), "a");
        assert_eq!(names(Some(3)), "a", "one is always there");
    }
}
