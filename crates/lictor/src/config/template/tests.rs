//! What people write in address templates, over a made-up machine.

use super::*;

fn machine() -> Vec<InterfaceAddress> {
    let address = |name: &str, ip: &str, prefix: u8, flags: &[&'static str], default_route: bool| InterfaceAddress {
        name: name.into(),
        ip: ip.parse().unwrap(),
        prefix,
        flags: flags.to_vec(),
        default_route,
    };
    let ethernet = ["up", "broadcast", "multicast"];
    vec![
        address("lo", "127.0.0.1", 8, &["up", "loopback"], false),
        address("lo", "::1", 128, &["up", "loopback"], false),
        address("eth1", "10.7.0.9", 16, &ethernet, false),
        address("eth0", "192.168.1.5", 24, &ethernet, true),
        address("eth0", "fd00::2", 64, &ethernet, true),
        address("eth0", "fe80::1", 64, &ethernet, true),
        address("eth2", "8.8.4.4", 24, &ethernet, false),
        address("eth3", "10.9.0.1", 16, &["broadcast"], false),
    ]
}

fn check(template: &str, expected: &str) {
    assert_eq!(evaluate(template, &machine()).as_deref(), Ok(expected), "{template}");
}

fn refused(template: &str) -> String {
    evaluate(template, &machine()).unwrap_err()
}

#[test]
fn the_usual_functions_give_addresses() {
    check("{{ GetPrivateIP }}", "192.168.1.5");
    check("{{GetPrivateIPs}}", "192.168.1.5 fd00::2 10.7.0.9");
    check("{{ GetPublicIP }}", "8.8.4.4");
    check("{{ GetInterfaceIP \"eth0\" }}", "192.168.1.5");
    check("{{ GetInterfaceIP \"nope0\" }}", "");
    check("{{ GetInterfaceIP \"lo\" }}", "");
    check("{{ GetInterfaceIPs `lo` }}", "127.0.0.1 ::1");
    check("127.0.0.1 {{ GetPrivateIP }}", "127.0.0.1 192.168.1.5");
    check("plain", "plain");
}

#[test]
fn lists_are_filtered_sorted_cut_and_joined() {
    check("{{ GetPrivateInterfaces | include \"network\" \"10.0.0.0/8\" | attr \"address\" }}", "10.7.0.9");
    check(
        "{{ GetAllInterfaces | include \"name\" \"^eth\" | include \"flags\" \"forwardable|up\" | attr \"address\" }}",
        "10.7.0.9",
    );
    check(
        "{{ GetAllInterfaces | include \"type\" \"IPv4\" | exclude \"rfc\" \"6890\" | join \"address\" \" \" }}",
        "8.8.4.4",
    );
    check(
        "{{ GetAllInterfaces | include \"type\" \"ipv4\" | sort \"-address\" | limit 2 | join \"address\" \",\" }}",
        "192.168.1.5,127.0.0.1",
    );
    check("{{ GetAllInterfaces | sort \"default,type,size\" | offset 1 | limit 1 | attr \"address\" }}", "fd00::2");
    check("{{ GetDefaultInterfaces | join \"name\" \" \" }}", "eth0 eth0 eth0");
    check("{{ GetDefaultInterfaces | unique \"name\" | join \"name\" \" \" }}", "eth0");
    check("{{ GetAllInterfaces | include \"name\" \"lo\" | math \"network\" \"+3\" | attr \"address\" }}", "127.0.0.3");
    check("{{ GetInterfaceIP \"eth1\" | printf \"%s:8500\" }}", "10.7.0.9:8500");
    check("{{ GetPrivateInterfaces | attr \"network\" }}", "192.168.1.0/24");
    check("{{ GetPrivateInterfaces | attr \"nonsense\" }}", "");
    check("{{ GetAllInterfaces | include \"size\" \"16\" | include \"flag\" \"up\" | attr \"name\" }}", "eth1");
    check("{{ GetPrivateInterfaces | math \"network\" \"-1\" | attr \"address\" }}", "192.168.1.254");
}

#[test]
fn the_language_has_conditions_loops_and_variables() {
    check("{{ with GetPublicIP }}{{ . }}{{ else }}none{{ end }}", "8.8.4.4");
    check("{{ if GetInterfaceIP \"nope\" }}a{{ else if eq 1 1 }}b{{ else }}c{{ end }}", "b");
    check("{{ range GetDefaultInterfaces }}{{ .Name }} {{ end }}", "eth0 eth0 eth0 ");
    check(
        "{{ range $i := GetDefaultInterfaces | limit 1 }}{{ $i.Name }}={{ attr \"address\" $i }}{{ end }}",
        "eth0=192.168.1.5",
    );
    check("{{ $ip := GetPrivateIP }}{{ $ip }} {{ $ip }}", "192.168.1.5 192.168.1.5");
    check("{{ len GetAllInterfaces }} {{ index GetAllInterfaces 0 | attr \"name\" }}", "8 lo");
    check("a {{- \"b\" -}} c", "abc");
    check("{{ not (eq \"a\" \"b\") }} {{ and true false }} {{ or \"\" \"x\" }} {{ ne 1 2 }}", "true false x true");
    check("{{/* nothing */}}x", "x");
}

#[test]
fn what_cannot_be_understood_is_named() {
    assert!(refused("{{ GetBogus }}").starts_with("function \"GetBogus\" is not supported; there are: GetPrivateIP"));
    assert_eq!(refused("{{ GetPrivateIP"), "unclosed action");
    assert_eq!(refused("{{ }}"), "missing value for command");
    assert_eq!(refused("{{ if true }}x"), "{{if}} without {{end}}");
    assert_eq!(refused("{{ end }}"), "unexpected {{end}}");
    assert_eq!(refused("{{ GetAllInterfaces | include \"network\" \"x\" }}"), "invalid network \"x\"");
    assert_eq!(refused("{{ GetAllInterfaces | sort \"x\" }}"), "unknown sort key \"x\"");
    assert_eq!(refused("{{ GetAllInterfaces | include \"name\" \"(\" }}"), "invalid regular expression \"(\"");
    assert_eq!(refused("{{ GetInterfaceIP }}"), "not enough arguments for GetInterfaceIP");
    assert_eq!(refused("{{ GetPrivateIP 1 }}"), "too many arguments for GetPrivateIP");
    assert_eq!(refused("{{ $x }}"), "undefined variable $x");
    assert!(refused(&"{{ if true }}".repeat(10_000)).contains("nested too deeply"));
    assert!(refused(&format!("{{{{ {} 1 }}}}", "(".repeat(10_000))).contains("nested too deeply"));
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_template_makes_it_panic(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("{{"), Just("}}"), Just(" "), Just("-"), Just("|"), Just("("), Just(")"), Just("\""),
                    Just("`"), Just("."), Just("$x"), Just(":="), Just("if"), Just("end"), Just("else"), Just("range"),
                    Just("with"), Just("GetAllInterfaces"), Just("attr"), Just("\"address\""), Just("1"), Just("é"),
                    Just("printf"), Just("\"%s\""), Just("math"), Just("\"network\""), Just("\"-99999999999\""),
                ],
                0..30,
            )
        ) {
            let _ = evaluate(&words.join(" "), &machine());
            let _ = evaluate(&words.concat(), &machine());
        }
    }
}
