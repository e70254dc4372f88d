#!/bin/sh
# Zones as the world has them, signed by BIND's own tools: `zones.sh FOLDER` writes them, with the trust anchor, the
# root hints, and the configuration of a named that serves them at 127.0.1.1 (root), .2 (top-level domains), .3 (below).
set -eu
cd "$1"
root=127.0.1.1 tld=127.0.1.2 leaf=127.0.1.3

# zone NAME ADDRESS: its head; the rest from standard input.
zone() {
    name=$1 dot=$1.; [ "$name" = . ] && dot=.
    file=$(file "$name")
    {
        printf '%s 3600\n%s SOA ns.%s mail.%s 1 3600 600 86400 3600\n' "\$TTL" "$dot" "${dot#.}" "${dot#.}"
        printf '%s NS ns.%s\nns.%s A %s\n' "$dot" "${dot#.}" "${dot#.}" "$2"
        cat
    } >"$file"
}
file() { [ "$1" = . ] && echo root.zone || echo "$1.zone"; }

# cut CHILD ADDRESS: a delegation.
cut() { printf '%s. NS ns.%s.\nns.%s. A %s\n' "$1" "$1" "$1" "$2"; }

# mail NAME: a domain with a host of its own, and with the TLSA record of that.
mail() {
    printf '%s. MX 10 mx.%s.\nmx.%s. A 198.51.100.1\n' "$1" "$1" "$1"
    printf '_25._tcp.mx.%s. TLSA 3 1 1 %064d\n' "$1" 1
}

# sign ZONE ALGORITHM OPTIONS…: with a key for keys and a key for the rest; leaves dsset-ZONE.
sign() {
    name=$1 algorithm=$2; shift 2
    file=$(file "$name")
    for use in '-f KSK' ''; do
        # shellcheck disable=SC2086
        key=$(dnssec-keygen -q -a $algorithm $use "$name")
        cat "$key.key" >>"$file"
        # With a TTL, as everybody reads it.
        [ "$name" = . ] && [ "$use" ] && sed -n 's/IN DNSKEY/3600 &/p' "$key.key" >anchor
    done
    dnssec-signzone -q -o "$name" -f "$file.signed" "$@" "$file" >/dev/null
    mv "$file.signed" "$file"
}
ds() { cat "dsset-$1."; }


# NSEC3 as RFC 9276 wants it, with opt-out and without, as it was before, and NSEC.
optout='-3 - -A -H 0' nsec3='-3 - -H 0' salted='-3 c0ffee -H 5' nsec=''

# signed NAME ALGORITHM OPTIONS MORE: a domain that is signed, with these records too.
signed() {
    { mail "$1"; [ $# -lt 4 ] || printf "%b" "$4"; } | zone "$1" $leaf
    # shellcheck disable=SC2086
    sign "$1" "$2" $3
}
unsigned() { mail "$1" | zone "$1" $leaf; }

# children TLD: what each has below it, to standard output.
children() {
    signed "signed.$1" "$2" "$3" >&2
    cut "signed.$1" $leaf; ds "signed.$1"
    for n in 1 2 3; do
        unsigned "unsigned$n.$1"; cut "unsigned$n.$1" $leaf
    done
    # Its DS records are those of other keys.
    signed "bogus.$1" ECDSAP256SHA256 "$nsec" >&2
    cut "bogus.$1" $leaf
    ds "signed.$1" | sed "s/^[^ \t]*/bogus.$1./"
}

# tld NAME ALGORITHM OPTIONS CHILDREN-ALGORITHM CHILDREN-OPTIONS, and more of the zone from standard input.
tld() {
    cat >rest
    children "$1" "$4" "$5" >below
    cat below rest | zone "$1" $tld
    # shellcheck disable=SC2086
    sign "$1" "$2" $3
}

signed wild.org ECDSAP256SHA256 "$nsec3" '*.wild.org. MX 10 mx.wild.org.\n'
signed wild.net ED25519 "$nsec" '*.wild.net. MX 10 mx.wild.net.\n'
signed aliases.com ECDSAP256SHA256 "$nsec" 'safe.aliases.com. CNAME signed.org.
open.aliases.com. CNAME unsigned1.org.
bogus.aliases.com. CNAME bogus.org.
'
signed island.com ECDSAP256SHA256 "$nsec3"
signed old.com NSEC3RSASHA1 "$nsec3"
signed short.com 'RSASHA256 -b 1024' "$nsec"
signed long.com RSASHA512 "$salted"
signed rare.com ED448 "$nsec3"
printf 'toopen.com. MX 10 mx.unsigned1.net.\n' | zone toopen.com $leaf; sign toopen.com ECDSAP256SHA256 -3 - -H 0
printf 'tosafe.com. MX 10 mx.signed.net.\n' | zone tosafe.com $leaf
printf 'safe.aliases.info. CNAME signed.org.\n' | zone aliases.info $leaf
{ cut aliases.com $leaf; ds aliases.com; cut island.com $leaf; cut old.com $leaf; ds old.com
  cut short.com $leaf; ds short.com; cut long.com $leaf; ds long.com
  cut rare.com $leaf; ds rare.com
  cut toopen.com $leaf; ds toopen.com; cut tosafe.com $leaf; } |
    tld com ECDSAP256SHA256 "$optout" RSASHA256 "$nsec"
{ cut wild.org $leaf; ds wild.org; } | tld org RSASHA256 "$salted" ECDSAP256SHA256 "$nsec3"
{ cut wild.net $leaf; ds wild.net; } | tld net RSASHA256 "$nsec" ED25519 "$nsec3"
tld de ED25519 "$optout" ECDSAP384SHA384 "$nsec3" </dev/null
# co.uk is no zone, and nothing below gov.uk is signed.
children co.uk ECDSAP256SHA256 "$nsec3" >couk
unsigned only.gov.uk
{ cat couk; cut only.gov.uk $leaf; } | tld uk ECDSAP256SHA256 "$optout" ED25519 "$nsec"
# co.jp is one.
tld co.jp ECDSAP256SHA256 "$optout" ECDSAP256SHA256 "$nsec3" </dev/null
{ cut co.jp $tld; ds co.jp; } | tld jp RSASHA256 "$nsec3" ED25519 "$nsec"
# Not signed at all.
{ children info ED25519 "$nsec"; cut aliases.info $leaf; } | zone info $tld
{
    for name in com org net de uk jp; do cut $name $tld; ds $name; done
    cut info $tld
} | zone . $root
sign . RSASHA256
printf '. 3600 NS ns.\nns. 3600 A %s\n' $root >hints

view() { # NAME ADDRESS ZONE…
    printf 'view %s { match-destinations { %s; };\n' "$1" "$2"; shift 2
    for zone in "$@"; do printf 'zone "%s" { type primary; file "%s"; };\n' "$zone" "$(file "$zone")"; done
    printf '};\n'
}
{
    printf 'options { directory "%s"; recursion no; dnssec-validation no; pid-file none; session-keyfile none;' "$PWD"
    printf ' listen-on port 53 { %s; %s; %s; }; listen-on-v6 { none; }; notify no; };\ncontrols { };\n' $root $tld $leaf
    view root $root .
    view tld $tld com org net de uk jp co.jp info
    leaves=$(ls ./*.*.zone | sed 's|^./||; s|.zone$||' | grep -vx 'co.jp' | grep -v '^root$' | grep '\.')
    # shellcheck disable=SC2086
    view leaf $leaf $leaves
} >authority.conf
