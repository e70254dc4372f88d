//! As much of a DNS server as mail by MX records needs, with all names of a shape: for `STS=…`.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

const A: u16 = 1;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
/// Seconds that an answer, or that there is none, may be kept.
const TTL: u32 = 3600;

/// The MX host of a domain.
pub(crate) fn host(domain: &str) -> String {
    format!("mx.{domain}")
}

/// Answers until the process ends. `has_policies`: each domain has a record of MTA-STS.
pub(crate) fn start(hosts: Vec<(String, Ipv4Addr)>, has_policies: bool) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port for DNS");
    let address = socket.local_addr().expect("bound above");
    std::thread::spawn(move || {
        let mut question = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..length], &hosts, has_policies) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    address
}

/// RFC 1035 §4.1.
fn answer(question: &[u8], hosts: &[(String, Ipv4Addr)], has_policies: bool) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while let Some(length @ 1..) = question.get(at).copied() {
        let label = question.get(at + 1..at + 1 + usize::from(length))?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + usize::from(length);
    }
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let name = labels.join(".");
    let found = hosts.iter().find_map(|(domain, address)| match kind {
        MX if name == *domain => Some([&10u16.to_be_bytes()[..], &wire(&host(domain))].concat()),
        A if name == host(domain) => Some(address.octets().to_vec()),
        TXT if has_policies && name == format!("_mta-sts.{domain}") => Some(b"\x0ev=STSv1; id=1;".to_vec()),
        _ => None,
    });
    let mut answer = question[..2].to_vec();
    // A response, with recursion; one question, and one record that is the answer or says that there is none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(found.is_some()), 0, u8::from(found.is_none()), 0, 0]);
    answer.extend(question.get(12..at + 5)?);
    let kind = if found.is_some() { kind } else { SOA };
    let data = found.unwrap_or_else(|| [&[0, 0][..], &[[0, 0, 0x0e, 0x10]; 5].concat()].concat());
    // The name of the question, class IN.
    answer.extend([0xc0, 12]);
    answer.extend([kind, 1].map(u16::to_be_bytes).concat());
    answer.extend(TTL.to_be_bytes());
    answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    answer.extend(data);
    Some(answer)
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.flatten().chain([0]).collect()
}
