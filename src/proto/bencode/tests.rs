use proptest::prelude::*;

use super::BencodeErrorKind::{
    DuplicateKey, Integer, KeyType, KeyWithoutValue, NotAValue, StringClaim, StringLength, TooDeep, TooManyTokens,
    Truncated,
};
use super::*;

fn kind(input: &[u8]) -> Option<BencodeErrorKind> {
    scan(input).err().map(|error| error.kind)
}

#[test]
fn canonical_values_pass_and_everything_else_is_named() {
    for input in ["i0e", "i-1e", "i40e", "0:", "4:spam", "le", "de", "d1:ai1e1:b2:xye", "lli1eee", "d0:i1ee"] {
        assert_eq!(kind(input.as_bytes()), None, "{input}");
    }
    let huge = format!("i{}e", "9".repeat(4000));
    assert_eq!(kind(huge.as_bytes()), None, "integers may be of any size");
    for (input, wrong) in [
        ("", Truncated),
        ("x", NotAValue),
        (" de", NotAValue),
        ("e", NotAValue),
        ("i", Truncated),
        ("i-0e", Integer),
        ("i007e", Integer),
        ("ie", Integer),
        ("i-e", Integer),
        ("i+1e", Integer),
        ("i 1e", Integer),
        ("i1.5e", Integer),
        ("i12", Truncated),
        ("04:spam", StringLength),
        ("00:", StringLength),
        ("4 spam", StringLength),
        ("l-1:xe", StringLength),
        ("5:spam", Truncated),
        ("99999999999999999999:x", StringClaim),
        ("18446744073709551615:x", StringClaim),
        ("l", Truncated),
        ("d1:a", Truncated),
        ("d1:ae", KeyWithoutValue),
        ("di1ei2ee", KeyType),
        ("dlei2ee", KeyType),
        ("d1:ai1e1:ai2ee", DuplicateKey),
        ("d1:bi1e1:ai1e1:bi2ee", DuplicateKey),
    ] {
        assert_eq!(kind(input.as_bytes()), Some(wrong), "{input}");
    }
}

#[test]
fn order_and_trailing_bytes_are_noted_not_refused() {
    let scanned = scan(b"d1:bi1e1:ai2eejunk").unwrap();
    assert!(scanned.unsorted);
    assert_eq!(scanned.trailing, 4);
    assert_eq!(scanned.root.raw(), b"d1:bi1e1:ai2ee");
    assert!(!scan(b"d1:ad1:zi1ee1:bi2ee").unwrap().unsorted, "each dictionary has its own order");
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let nested = |depth: usize| [b"l".repeat(depth), b"e".repeat(depth)].concat();
    assert_eq!(kind(&nested(MAX_DEPTH)), None);
    assert_eq!(kind(&nested(MAX_DEPTH + 1)), Some(TooDeep));
    assert_eq!(kind(&vec![b'l'; 5_000_000]), Some(TooDeep));
    let many = |count: usize| [b"l".to_vec(), b"0:".repeat(count), b"e".to_vec()].concat();
    assert_eq!(kind(&many(MAX_TOKENS - 1)), None);
    assert_eq!(kind(&many(MAX_TOKENS)), Some(TooManyTokens));
}

#[test]
fn values_are_found_without_copying() {
    let bytes = b"d4:listli-3e2:hie3:numi18446744073709551615e4:subsd1:xdeee";
    let root = scan(bytes).unwrap().root.as_dict().unwrap();
    let list: Vec<_> = root.get("list").unwrap().as_list().unwrap().collect();
    assert_eq!((list[0].as_i64(), list[0].as_u64(), list[1].as_str()), (Some(-3), None, Some("hi")));
    let number = root.get("num").unwrap();
    assert_eq!((number.as_u64(), number.as_i64(), number.is_integer()), (Some(u64::MAX), None, true));
    assert_eq!(root.get("subs").unwrap().raw(), b"d1:xdee");
    assert_eq!(root.get("none"), None);
    assert_eq!(root.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"list".as_slice(), b"num", b"subs"]);
    assert!(number.as_bytes().is_none() && number.as_dict().is_none() && number.as_list().is_none());
}

#[test]
fn a_cursor_walks_in_and_out() {
    let root = scan(b"d1:ad1:bi1ee1:ci2ee").unwrap().root;
    let mut cursor = root.cursor_inside();
    assert_eq!(cursor.value().unwrap().as_bytes(), Some(b"a".as_slice()));
    assert!(cursor.enter_dict() && !cursor.leave());
    assert_eq!(cursor.value().unwrap().as_bytes(), Some(b"b".as_slice()));
    assert_eq!(cursor.value().unwrap().as_i64(), Some(1));
    assert_eq!(cursor.value(), None);
    assert!(cursor.leave());
    assert_eq!(cursor.value().unwrap().as_bytes(), Some(b"c".as_slice()));
}

/// A value as a tree, to be written and read back.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Dict(std::collections::BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Int(value) => writer.int(*value),
            Self::Bytes(value) => writer.bytes(value),
            Self::List(values) => writer.list(|list| values.iter().for_each(|value| value.write(list))),
            Self::Dict(entries) => {
                writer.dict(|dict| entries.iter().for_each(|(key, value)| value.write(dict.key(key))));
            }
        }
    }

    fn read(value: Value<'_>) -> Self {
        if let Some(dict) = value.as_dict() {
            Self::Dict(dict.iter().map(|(key, value)| (key.to_vec(), Self::read(value))).collect())
        } else if let Some(list) = value.as_list() {
            Self::List(list.map(Self::read).collect())
        } else if let Some(bytes) = value.as_bytes() {
            Self::Bytes(bytes.to_vec())
        } else {
            Self::Int(value.as_i64().expect("written from an i64"))
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
    let leaf = prop_oneof![any::<i64>().prop_map(Tree::Int), bytes().prop_map(Tree::Bytes)];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Tree::List),
            proptest::collection::btree_map(bytes(), inner, 0..8).prop_map(Tree::Dict),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(tree in tree()) {
        let mut writer = Writer::default();
        tree.write(&mut writer);
        let bytes = writer.into_vec();
        let scanned = scan(&bytes).unwrap();
        prop_assert_eq!(scanned.trailing, 0);
        prop_assert!(!scanned.unsorted);
        prop_assert_eq!(Tree::read(scanned.root), tree);
    }

    #[test]
    fn no_input_makes_the_scanner_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(scanned) = scan(&bytes) {
            walk(scanned.root);
        }
    }

    #[test]
    fn no_cut_or_altered_value_makes_the_scanner_panic(
        tree in tree(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = Writer::default();
        tree.write(&mut writer);
        let mut bytes = writer.into_vec();
        let whole = bytes.len();
        for (at, byte) in changes {
            let at = at.index(whole);
            bytes[at] = byte;
        }
        if let Ok(scanned) = scan(&bytes) {
            walk(scanned.root);
        }
        let cut = cut.index(whole);
        if let Ok(scanned) = scan(&bytes[..cut]) {
            prop_assert!(scanned.root.raw().len() <= cut);
        }
    }
}

/// Touches everything below a value.
fn walk(value: Value<'_>) {
    let _ = (value.as_i64(), value.as_u64(), value.as_str(), value.is_integer());
    value.as_list().into_iter().flatten().for_each(walk);
    value.as_dict().into_iter().flat_map(Dict::iter).for_each(|(_, value)| walk(value));
}
