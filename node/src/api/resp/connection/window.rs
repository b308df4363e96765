//! How many requests of a connection may be under way.
//!
//! A request of a few bytes may have an answer of megabytes, which is in memory from when it is
//! found until the client has taken it. How large it is shows only then. So a connection begins with
//! few requests at a time and gets to more as it uses them, twice as many with each round; once answers
//! turn out to be large, it is as many as fit into its share of the memory for answers.

/// Requests under way before anything is known of how large answers are.
const FIRST: usize = 4;
/// The most, however small the answers.
const MOST: usize = 1024;
/// What answers under way may take on one connection (bytes).
const OF_ONE: usize = 4 << 20;
/// The same on all connections together (bytes), but for one answer on each.
const OF_ALL: usize = 256 << 20;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Window {
    /// How many may be under way.
    size: usize,
    /// The most that were.
    reached: usize,
    /// The largest answer lately (bytes).
    largest: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: FIRST,
            reached: 0,
            largest: 0,
        }
    }
}

impl Window {
    /// Whether one more may be begun beside so many.
    pub(super) fn has_room(&self, under_way: usize) -> bool {
        under_way < self.size
    }

    /// So many are under way now.
    pub(super) fn reaches(&mut self, under_way: usize) {
        self.reached = self.reached.max(under_way);
    }

    /// There is an answer of so many bytes; so many connections share what there is for answers.
    pub(super) fn answered(&mut self, bytes: usize, connections: usize) {
        // Forgets an eighth of the largest with each answer.
        self.largest = (self.largest - self.largest / 8).max(bytes).max(1);
        let share = OF_ONE.min(OF_ALL / connections.max(1));
        let used = (2 * self.reached).clamp(FIRST, MOST);
        self.size = (share / self.largest).clamp(1, used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client asks for so many answers at once, of so many bytes each: the most that were under way.
    fn ask(window: &mut Window, requests: usize, bytes: usize, connections: usize) -> usize {
        let (mut left, mut under_way, mut most) = (requests, 0, 0);
        while left + under_way > 0 {
            while left > 0 && window.has_room(under_way) {
                left -= 1;
                under_way += 1;
                window.reaches(under_way);
            }
            most = most.max(under_way);
            under_way -= 1;
            window.answered(bytes, connections);
        }
        most
    }

    #[test]
    fn large_answers_are_few_at_a_time_from_the_beginning() {
        let mut window = Window::default();
        // Whatever came before, one at a time.
        assert_eq!(ask(&mut window, 1, 5, 1), 1);
        for _ in 0..100 {
            ask(&mut window, 1, 100, 1);
        }
        assert_eq!(ask(&mut window, 100, 16 << 20, 1), FIRST);
        assert_eq!(ask(&mut window, 100, 16 << 20, 1), 1);
    }

    #[test]
    fn small_answers_get_to_be_many_at_a_time() {
        let mut window = Window::default();
        assert_eq!(ask(&mut window, 10_000, 100, 50), MOST);
        assert_eq!(ask(&mut window, 10_000, 100, 50), MOST);
        // A large one is remembered for some time, and then forgotten.
        ask(&mut window, 1, 1 << 20, 50);
        assert!(ask(&mut window, 10, 100, 50) < 10);
        ask(&mut window, 1000, 100, 50);
        assert_eq!(ask(&mut window, 10_000, 100, 50), MOST);
    }

    #[test]
    fn many_connections_have_small_shares() {
        let large = 1 << 20;
        for (connections, under_way) in [(1, 4), (64, 4), (100, 2), (10_000, 1)] {
            let mut window = Window::default();
            ask(&mut window, 10, large, connections);
            let most = ask(&mut window, 10, large, connections);
            assert_eq!(most, under_way, "{connections} connections");
        }
    }
}
