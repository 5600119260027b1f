//! Things that stand in a place each, found by its number. None moves when others come.

/// Things that room is made for at once.
const CHUNK: usize = 4096;

pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Chunks<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }

    /// Returns its place, below `u32::MAX`.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| self.grow());
        let (chunk, index) = parts(place);
        self.chunks[chunk][index] = Some(thing);
        place
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let (chunk, index) = parts(place);
        self.chunks.get(chunk)?.get(index)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let (chunk, index) = parts(place);
        self.chunks.get_mut(chunk)?.get_mut(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let (chunk, index) = parts(place);
        let removed = self.chunks.get_mut(chunk)?.get_mut(index)?.take();
        self.free.extend(removed.is_some().then_some(place));
        removed
    }

    /// Those there are, in no order.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        let all = (0_u32..).zip(self.chunks.iter().flatten());
        all.filter(|(_, thing)| thing.is_some()).map(|(place, _)| place)
    }

    /// Makes room for more; returns the first place of it.
    fn grow(&mut self) -> u32 {
        let first = self.chunks.len() * CHUNK;
        self.chunks.push(std::iter::repeat_with(|| None).take(CHUNK).collect());
        let places = (first..first + CHUNK).rev().filter_map(|place| u32::try_from(place).ok());
        self.free.extend(places);
        self.free.pop().expect("a chunk was added; four thousand million do not fit a memory")
    }
}

fn parts(place: u32) -> (usize, usize) {
    (place as usize / CHUNK, place as usize % CHUNK)
}
