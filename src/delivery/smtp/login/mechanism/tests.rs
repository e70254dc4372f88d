//! Every mechanism against the examples of its document, and which of them is taken.

use crate::delivery::smtp::login::mechanism::*;

const ME: Identity<'static> =
    Identity { username: "tim", secret: "tanstaaftanstaaf", host: "smtp.up.test", port: 587 };

fn offered(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}

fn order(words: &str, token: bool, tls: bool, channel: Option<ChannelBinding>) -> Vec<&'static str> {
    let offered = offered(words);
    let context = AuthContext { offered: &offered, token, tls, channel };
    context.mechanisms().into_iter().map(Mechanism::name).collect()
}

fn begin(mechanism: Mechanism, identity: Identity<'_>) -> Exchange {
    let context = AuthContext { offered: &[], token: false, tls: true, channel: None };
    Exchange::begin(mechanism, identity, &context, "abc".to_owned())
}

fn text(response: Result<Vec<u8>, AuthError>) -> String {
    String::from_utf8(response.unwrap()).unwrap()
}

#[test]
fn the_best_mechanism_comes_first_and_a_token_is_never_sent_as_a_password() {
    let all = "GSSAPI CRAM-MD5 LOGIN PLAIN XOAUTH2 OAUTHBEARER SCRAM-SHA-256 SCRAM-SHA-256-PLUS SCRAM-SHA-1";
    let with_plus = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"];
    assert_eq!(order(all, false, true, Some([0; 32])), with_plus);
    assert_eq!(order(all, false, true, None), with_plus[1..], "TLS 1.2 has no binding");
    assert_eq!(order(all, false, false, None), ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]);
    assert_eq!(order(all, true, true, Some([0; 32])), ["XOAUTH2", "OAUTHBEARER"]);
    assert_eq!(order("LOGIN PLAIN", false, true, None), ["PLAIN", "LOGIN"]);
    assert!(order("PLAIN LOGIN", true, true, None).is_empty());
    assert!(order("XOAUTH2 GSSAPI", false, true, None).is_empty());
}

/// RFC 2195 §2.
#[test]
fn cram_md5_is_the_example_of_rfc_2195() {
    let mut exchange = begin(CramMd5, ME);
    assert_eq!(exchange.initial(500), None, "RFC 4954 section 4: the server speaks first");
    let response = exchange.answer("PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+");
    let response = STANDARD.encode(response.unwrap());
    assert_eq!(response, "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw");
    assert!(matches!(begin(CramMd5, ME).answer("no base 64!"), Err(AuthError::Unusable(_))));
}

/// RFC 4616 §4, the first example.
#[test]
fn plain_goes_at_once_or_when_it_is_asked_for() {
    assert_eq!(begin(Plain, ME).initial(500).unwrap(), STANDARD.encode("\0tim\0tanstaaftanstaaf"));
    for asked in ["", "go ahead", "UGxhaW4/"] {
        let mut exchange = begin(Plain, ME);
        exchange.initial(500);
        assert_eq!(text(exchange.answer(asked)), "\0tim\0tanstaaftanstaaf", "{asked:?}");
        assert!(matches!(exchange.answer(asked), Err(AuthError::Unusable(_))), "once is enough");
    }
}

#[test]
fn login_is_answered_by_what_is_asked_and_else_by_turns() {
    for asked in [["VXNlcm5hbWU6", "UGFzc3dvcmQ6"], ["", ""], ["Qm9udQ==", "no base 64!"]] {
        let mut exchange = begin(Login, ME);
        assert_eq!(exchange.initial(500), None);
        let said = asked.map(|challenge| text(exchange.answer(challenge)));
        assert_eq!(said, ["tim", "tanstaaftanstaaf"], "{asked:?}");
    }
    let mut reversed = begin(Login, ME);
    assert_eq!(text(reversed.answer("UGFzc3dvcmQ6")), "tanstaaftanstaaf");
}

/// The form and the base 64 are those of Google's documentation of XOAUTH2.
#[test]
fn xoauth2_is_as_google_documents_it() {
    let secret = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg";
    let mut exchange = begin(Xoauth2, Identity { username: "someuser@example.com", secret, ..ME });
    assert_eq!(
        exchange.initial(500).unwrap(),
        "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0\
         Q2cBAQ=="
    );
    // Its error is a challenge; the 535 comes after an empty response.
    let error = r#"{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}"#;
    assert_eq!(text(exchange.answer(&STANDARD.encode(error))), "");
    assert_eq!(exchange.token_error().as_deref(), Some("401"));
}

/// RFC 7628 §4.1 and §4.3.
#[test]
fn oauthbearer_is_the_example_of_rfc_7628() {
    let secret = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
    let me = Identity { username: "user@example.com", secret, host: "server.example.com", port: 143 };
    let mut exchange = begin(OauthBearer, me);
    assert_eq!(
        exchange.initial(500).unwrap(),
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52\
         YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    );
    let error = r#"{"status":"invalid_token","scope":"example_scope"}"#;
    assert_eq!(text(exchange.answer(&STANDARD.encode(error))), "\x01");
    assert_eq!(exchange.token_error().as_deref(), Some("invalid_token"));
}

#[test]
fn an_error_about_a_token_is_quoted_short_and_printable_whatever_it_is() {
    let long = STANDARD.encode("x".repeat(5000));
    let shortened = "x".repeat(ERROR_CHARS_MAX);
    for (error, quoted) in [
        ("eyJzdGF0dXMiOjQwMX0=", "401"),
        ("bm9wZQ==", "nope"),
        ("not base 64!", "not base 64!"),
        ("YQoBYg==", "ab"),
        (&long, &shortened),
    ] {
        let mut exchange = begin(Xoauth2, ME);
        exchange.initial(500);
        exchange.answer(error).unwrap();
        assert_eq!(exchange.token_error().as_deref(), Some(quoted), "{error}");
    }
}

/// RFC 4954 §4.
#[test]
fn what_does_not_fit_into_the_command_waits_for_the_challenge() {
    let long = "t".repeat(2000);
    let mut exchange = begin(Xoauth2, Identity { secret: &long, ..ME });
    assert_eq!(exchange.initial(495), None);
    assert_eq!(text(exchange.answer("")), format!("user=tim\x01auth=Bearer {long}\x01\x01"));
    assert_eq!(exchange.token_error(), None, "that challenge was no error");
    exchange.answer("e30=").unwrap();
    assert_eq!(exchange.token_error().as_deref(), Some("{}"));
}

#[test]
fn scram_says_that_plus_was_not_offered_where_it_could_have_been_had() {
    let first = |mechanism, words: &str, channel| {
        let offered = offered(words);
        let context = AuthContext { offered: &offered, token: false, tls: true, channel };
        let initial = Exchange::begin(mechanism, ME, &context, "abc".to_owned()).initial(500).unwrap();
        String::from_utf8(STANDARD.decode(initial).unwrap()).unwrap()
    };
    let (both, one) = ("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "SCRAM-SHA-256");
    assert_eq!(first(ScramPlus, both, Some([0; 32])), "p=tls-exporter,,n=tim,r=abc");
    assert_eq!(first(Scram, one, Some([0; 32])), "y,,n=tim,r=abc");
    let refused = "-PLUS was offered and refused: do not say that it was missing";
    assert_eq!(first(Scram, both, Some([0; 32])), "n,,n=tim,r=abc", "{refused}");
    assert_eq!(first(Scram, one, None), "n,,n=tim,r=abc");
}
