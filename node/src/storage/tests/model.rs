//! The same operations on the engine and on the store in memory give the same answers.

use kith_proto::{kv::version::Wall, store::partitions::MemoryStore};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(Batch),
    Page(PartitionId, Option<Place>, usize, usize),
    Kill,
    Close,
    Sync,
}

const PARTITIONS: [PartitionId; 5] = [0, 1, 255, 256, PartitionId::MAX];
const FACTS: [&str; 3] = ["a", "ab", "b"];

fn a_partition() -> impl Strategy<Value = PartitionId> {
    prop::sample::select(PARTITIONS.as_slice())
}

fn a_place() -> impl Strategy<Value = Place> {
    let bucket = prop::sample::select([0, 1, 255, 256, layout::BUCKETS - 1].as_slice());
    let byte = prop::sample::select([0_u8, 1, 255].as_slice());
    let key = prop::collection::vec(byte, 0..4);
    (a_partition(), bucket, key).prop_map(|(partition, bucket, key)| Place {
        partition,
        bucket,
        key: key.into(),
    })
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let version = (any::<u64>(), any::<u64>(), any::<u64>());
    // Long ones are not kept in memory.
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..100),
        1 => any::<u8>().prop_map(|byte| vec![byte; 5000]),
    ];
    let value = prop::option::of(value);
    (version, value, any::<Option<u64>>()).prop_map(|(version, value, expires)| Entry {
        version: Version {
            epoch: version.0,
            hlc: Hlc(version.1),
            branch: version.2,
        },
        value: value.map(Bytes::from),
        expires: expires.map(Wall),
    })
}

fn a_batch() -> impl Strategy<Value = Batch> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    let fact = prop::sample::select(FACTS.as_slice());
    (
        prop::collection::vec(a_partition(), 0..2),
        prop::collection::vec((a_place(), prop::option::of(an_entry())), 0..20),
        prop::collection::vec((a_partition(), bytes()), 0..3),
        prop::collection::vec((fact, bytes()), 0..3),
    )
        .prop_map(|(cleared, entries, chains, facts)| Batch {
            cleared,
            entries,
            chains,
            facts,
        })
}

fn a_step() -> impl Strategy<Value = Step> {
    let page = (
        a_partition(),
        any::<bool>(),
        a_place(),
        0..9_usize,
        0..300_usize,
    );
    let page = page.prop_map(|(partition, is_first, place, limit, bytes)| {
        let after = (!is_first).then_some(Place { partition, ..place });
        Step::Page(partition, after, limit, bytes)
    });
    prop_oneof![
        12 => a_batch().prop_map(Step::Write),
        6 => page,
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => Just(Step::Sync),
    ]
}

fn same(store: &impl Store, model: &MemoryStore) {
    for partition in PARTITIONS {
        let expected = all(model, partition).unwrap();
        assert_eq!(all(store, partition).unwrap(), expected);
        for (place, entry) in expected {
            assert_eq!(store.get(&place).unwrap(), Some(entry));
            let bucket = store.bucket(partition, place.bucket).unwrap();
            assert_eq!(bucket, model.bucket(partition, place.bucket).unwrap());
        }
    }
    assert_eq!(store.chains().unwrap(), model.chains().unwrap());
    for fact in FACTS {
        assert_eq!(store.fact(fact).unwrap(), model.fact(fact).unwrap());
    }
}

/// Goes through the steps on a store that is in front of an engine, and on the model.
fn run<S: Store>(steps: Vec<Step>, begin: impl Fn(&Engine) -> S) {
    let (_parent, path) = directory();
    let mut engine = open(&path);
    let mut store = begin(&engine);
    let mut model = MemoryStore::default();
    for step in steps {
        match step {
            Step::Write(batch) => {
                for (place, _) in &batch.entries {
                    assert_eq!(store.get(place), model.get(place));
                }
                store.write(batch.clone()).unwrap();
                model.write(batch).unwrap();
            }
            Step::Page(partition, after, limit, bytes) => {
                let page = store.page(partition, after.as_ref(), limit, bytes);
                assert_eq!(page, model.page(partition, after.as_ref(), limit, bytes));
            }
            Step::Kill | Step::Close => {
                store.commit().unwrap();
                drop(store);
                if matches!(step, Step::Close) {
                    engine.close().unwrap();
                } else {
                    drop(engine);
                }
                engine = open(&path);
                store = begin(&engine);
            }
            Step::Sync => {
                store.commit().unwrap();
                engine.sync().unwrap();
            }
        }
    }
    store.commit().unwrap();
    same(&store, &model);
    drop((store, engine));
    same(&open(&path).store(), &model);
}

/// As a shard begins: all of some partitions goes by, page by page.
fn gathering(engine: &Engine, recent: usize) -> Gathering {
    let store = Gathering::new(engine.store(), recent, 64 << 10);
    for partition in &PARTITIONS[1..4] {
        let mut after = None;
        while let Some((place, _)) = store
            .page(*partition, after.as_ref(), 3, usize::MAX)
            .unwrap()
            .pop()
        {
            after = Some(place);
        }
    }
    store
}

/// A page of no entries is empty wherever the partition ends.
#[test]
fn a_page_of_nothing_tells_nothing() {
    let place = Place {
        partition: 0,
        bucket: 0,
        key: Bytes::new(),
    };
    let batch = Batch {
        entries: vec![(place, Some(Entry::tombstone(Version::default())))],
        ..Batch::default()
    };
    let steps = vec![
        Step::Write(batch.clone()),
        Step::Kill,
        Step::Page(0, None, 0, 0),
        Step::Write(batch),
    ];
    run(steps, |engine| gathering(engine, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_is_the_model(steps in prop::collection::vec(a_step(), 1..40)) {
        run(steps, Engine::store);
    }

    #[test]
    fn what_is_gathered_in_front_of_it_too(
        steps in prop::collection::vec(a_step(), 1..40),
        recent in 0..4000_usize,
    ) {
        run(steps, |engine| gathering(engine, recent));
    }
}
