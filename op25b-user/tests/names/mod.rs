//! A name server that says what a test wants; it must not know what is made of that.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};

use crate::lab::Namespace;

/// Where it listens.
pub(crate) const SERVER: &str = "127.0.0.1:5353";

/// What the name server says of a name; nothing: it fails.
pub(crate) type Zone = Arc<Mutex<BTreeMap<&'static str, Vec<IpAddr>>>>;

/// A name server in a namespace: answers hold a second; names that it does not know fail. It ends with the process.
pub(crate) fn name_server(namespace: &Namespace, zone: Zone) -> Result<()> {
    let socket = namespace.within(|| UdpSocket::bind(SERVER))??;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).ok().and_then(|query| answer(&query, &zone));
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

fn answer(query: &Message, zone: &Zone) -> Option<Vec<u8>> {
    let question = query.queries.first()?;
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    let zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    match zone.get(question.name().to_string().trim_end_matches('.')) {
        None => answer.metadata.response_code = ResponseCode::ServFail,
        Some(addresses) => {
            // Every name is an alias, as those of hosted mail are.
            let alias: Name = "mx.hosting.example.".parse().ok()?;
            answer.add_answer(Record::from_rdata(
                question.name().clone(),
                1,
                RData::CNAME(CNAME(alias.clone())),
            ));
            for address in addresses {
                let data = match (address, question.query_type()) {
                    (IpAddr::V4(address), RecordType::A) => RData::A(A(*address)),
                    (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(*address)),
                    _ => continue,
                };
                answer.add_answer(Record::from_rdata(alias.clone(), 1, data));
            }
        }
    }
    answer.to_vec().ok()
}

/// Lets it say this of a name.
pub(crate) fn say(zone: &Zone, name: &'static str, addresses: &[&str]) {
    let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    zone.lock().unwrap_or_else(PoisonError::into_inner).insert(name, addresses);
}
