# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_postrider_global_optspecs
    string join \n config= h/help V/version
end

function __fish_postrider_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_postrider_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_postrider_using_subcommand
    set -l cmd (__fish_postrider_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c postrider -n "__fish_postrider_needs_command" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_needs_command" -s V -l version -d 'Print version'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "serve" -d 'Run the relay'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "check" -d 'Check config, certificate, users, database and DNS; print what was found'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "demo" -d 'Show the main job end to end on loopback: no config, no network'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "queue" -d 'Look at the queue and act on it, with or without the relay running'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "report" -d 'Say what went through since a time: accepted, delivered and how fast, deferred, bounced, and why'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "sql" -d 'SQL on the queue: a prompt, or -c \'SELECT …\''
complete -c postrider -n "__fish_postrider_needs_command" -f -a "backup" -d 'Copy the queue to a file, with or without the relay running'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "restore" -d 'Put a backup in the place of the queue, with the relay stopped'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "recover" -d 'Put what can be read of a damaged queue into a fresh one, with the relay stopped'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "sendmail" -d 'Hand a message to the relay, as sendmail does: for cron, PHP, git and all that call it'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "user" -d 'Say who may log in and send mail'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "dkim" -d 'Make keys that sign mail (DKIM), and show what DNS has of them'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "top" -d 'Watch the relay: lanes, connections, the rate, what was refused last (q ends it)'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "health" -d 'Say whether the relay answers on this machine, for the health check of a container'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "tlsrpt" -d 'Look at the daily reports on TLS to other domains (RFC 8460)'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "explain" -d 'Show how mail for an address would be routed, step by step'
complete -c postrider -n "__fish_postrider_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand serve" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand check" -l domain -d 'Look at what the world\'s mail hosts look at in mail from this domain, instead of at this machine' -r
complete -c postrider -n "__fish_postrider_using_subcommand check" -l sender-domain -d 'The domain of the envelope sender (MAIL FROM), where it is another than that of From' -r
complete -c postrider -n "__fish_postrider_using_subcommand check" -l to -d 'Connect to the hosts of this address too, as mail would; nothing is sent' -r
complete -c postrider -n "__fish_postrider_using_subcommand check" -l address -d 'The address that the world sees, where that is not one of this machine (NAT); may be given several times' -r
complete -c postrider -n "__fish_postrider_using_subcommand check" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand check" -l reference -d 'Print a commented config file with every key and its default, and check nothing'
complete -c postrider -n "__fish_postrider_using_subcommand check" -l json -d 'One JSON object, for programs'
complete -c postrider -n "__fish_postrider_using_subcommand check" -l against-queue -d 'Look at what a reload with this config would change for the mail that waits, instead of at this machine'
complete -c postrider -n "__fish_postrider_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand demo" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand demo" -l keep -d 'Leave the queue behind, to be looked into'
complete -c postrider -n "__fish_postrider_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "list" -d 'List what waits (or, with --state, what is finished), one line a recipient'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "find" -d 'Find mail by its Message-ID, Subject or tag, one line a recipient, waiting or finished'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "failures" -d 'Group what keeps mail from being delivered by the reason in the replies, the most frequent first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "oldest" -d 'List what has waited longest, one line a message or a lane'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "show" -d 'Show one message: envelope, recipients, every attempt, its story, header'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "kick" -d 'Try now, whatever the retry schedule says'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "flush" -d 'Try now, whatever the retry schedule says'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "retry" -d 'Try now, whatever the retry schedule says'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "hold" -d 'Keep from being tried until released'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "release" -d 'Try held ones again'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "remove" -d 'Take out of the queue; nobody is told'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "bounce" -d 'Return to the sender now, with what was said last'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "suspend" -d 'Have what waits and what comes for a domain, of a user or with a tag wait until resumed'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "resume" -d 'Have what is suspended go on'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "suspensions" -d 'List what is suspended, and how much waits behind each'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "kicks" -d 'List the queue kicks, by ETRN or `queue kick`: who, when, how many recipients; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "log" -d 'List what operators changed: when, who, what, how many; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "summary" -d 'Count what waits, in all and by domain'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and not __fish_seen_subcommand_from list find failures oldest show kick flush retry hold release remove bounce suspend resume suspensions kicks log summary help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l state -d 'Only recipients in this state; \'finished\' for all that is' -r -f -a "queued\t''
held\t''
delivered\t''
relayed\t''
failed\t''
expired\t''
removed\t''
finished\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l limit -d 'At most this many lines' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -l subject -d 'How its Subject begins; or a pattern, as in \'*4711*\'. Upper and lower case are the same for a to z only' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -l tag -d 'Its label: X-Postrider-Tag; * stands for anything, as in \'shop/*\'' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -l limit -d 'At most this many lines' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from find" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''
failed\t''
expired\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l limit -d 'At most this many reasons' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from failures" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l by -d 'What a line is' -r -f -a "message\t''
lane\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l limit -d 'At most this many lines' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from oldest" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from show" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from show" -l dialogue -d 'Also the SMTP dialogue, with milliseconds, of each recipient\'s last failed attempt that has one'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from show" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kick" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from flush" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from retry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l reason -d 'Why: shown wherever somebody asks why it is held' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from hold" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l state -d 'Only recipients in this state' -r -f -a "queued\t''
held\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l all -d 'All that waits'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l dry-run -d 'Change nothing: say for how many it would be, and show the first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l yes -d 'Do not ask, also where it is for more than 100 recipients'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from bounce" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l domain -d 'Mail for this domain (\'*.example.com\' for all below it, \'*\' for all)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l user -d 'Mail that this user submitted' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l tag -d 'Mail with this tag' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l for -d 'Only for so long, such as 30m, 2h or 3d; then it goes on by itself' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l reason -d 'Why: shown wherever somebody asks what mail waits for' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspend" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l domain -d 'Mail for this domain (\'*.example.com\' for all below it, \'*\' for all)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l user -d 'Mail that this user submitted' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l tag -d 'Mail with this tag' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l all -d 'All that is suspended'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspensions" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspensions" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from suspensions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kicks" -l limit -d 'At most this many lines' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kicks" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kicks" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from kicks" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from log" -l since -d 'From when on: 2h, 7d; today, yesterday (from its begin); 2026-11-29, or \'2026-11-29 14:00\' (all in UTC)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from log" -l limit -d 'At most this many lines' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from log" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from log" -l json -d 'One JSON object a line'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from log" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l user -d 'Only mail that this user submitted (\'\' for what nobody did: from trusted networks, and bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l sender -d 'Only mail of this envelope sender (\'\' for bounces)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l recipient -d 'Only this recipient' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l domain -d 'Only recipients of this domain (\'*.example.com\' for all below it)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l mx -d 'Only what this host was asked to take last (\'\' for what was not tried yet)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l lane -d 'Only what waits in this lane: a domain, \'route:\' and a route\'s domain, or \'atrn:\' and a domain' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l reply -d 'Only where the last reply has this text in it' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l older -d 'Only mail that came so long ago or earlier, such as 30m, 2h or 3d' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l tag -d 'Only mail with this tag (\'\' for mail without one)' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l held-by -d 'Only what this holds: an operator, a [[retry.rule]], a doubt whether it arrived, a restore, a recovery, or a fault of its own' -r -f -a "operator\t''
rule\t''
in-doubt\t''
restore\t''
recover\t''
fault\t''"
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l limit -d 'At most this many domains, destinations and hosts' -r
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from summary" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "list" -d 'List what waits (or, with --state, what is finished), one line a recipient'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "find" -d 'Find mail by its Message-ID, Subject or tag, one line a recipient, waiting or finished'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "failures" -d 'Group what keeps mail from being delivered by the reason in the replies, the most frequent first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "oldest" -d 'List what has waited longest, one line a message or a lane'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show one message: envelope, recipients, every attempt, its story, header'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "kick" -d 'Try now, whatever the retry schedule says'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "hold" -d 'Keep from being tried until released'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "release" -d 'Try held ones again'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Take out of the queue; nobody is told'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "bounce" -d 'Return to the sender now, with what was said last'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "suspend" -d 'Have what waits and what comes for a domain, of a user or with a tag wait until resumed'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "resume" -d 'Have what is suspended go on'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "suspensions" -d 'List what is suspended, and how much waits behind each'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "kicks" -d 'List the queue kicks, by ETRN or `queue kick`: who, when, how many recipients; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "log" -d 'List what operators changed: when, who, what, how many; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "summary" -d 'Count what waits, in all and by domain'
complete -c postrider -n "__fish_postrider_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand report" -l since -d 'From when on: 2h, 30m, 7d; today, yesterday (from its begin); 2026-11-29, or \'2026-11-29 14:00\' (all in UTC)' -r
complete -c postrider -n "__fish_postrider_using_subcommand report" -l by -d 'A line for each user, domain of recipients, tag, or host that was asked last' -r -f -a "user\t''
domain\t''
tag\t''
host\t''"
complete -c postrider -n "__fish_postrider_using_subcommand report" -l limit -d 'At most this many of them, and as many reasons' -r
complete -c postrider -n "__fish_postrider_using_subcommand report" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand report" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand sql" -s c -l command -d 'Run these statements and end' -r
complete -c postrider -n "__fish_postrider_using_subcommand sql" -l mode -d 'How rows are shown; values in a table are cut at 60 characters, and one that is wider than the terminal is shown a value a line' -r -f -a "table\t'Aligned, with the names of the columns'
line\t'A value a line, whole, with the name of its column'
list\t'Values with | between them and no names, for scripts'
csv\t'RFC 4180, with the names of the columns'
json\t'An object a line'"
complete -c postrider -n "__fish_postrider_using_subcommand sql" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand sql" -l write -d 'Allow statements that change the queue; a running relay notices within two seconds'
complete -c postrider -n "__fish_postrider_using_subcommand sql" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand backup" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand backup" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand restore" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand restore" -l replace -d 'Also where mail waits in the queue that is there; it is kept beside the restored one'
complete -c postrider -n "__fish_postrider_using_subcommand restore" -l queued -d 'Hold nothing: the relay was stopped before the backup was made, and did not run since'
complete -c postrider -n "__fish_postrider_using_subcommand restore" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand recover" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand recover" -l held -d 'Hold all that waits, to be looked at and released'
complete -c postrider -n "__fish_postrider_using_subcommand recover" -l queued -d 'Have it tried at the next start'
complete -c postrider -n "__fish_postrider_using_subcommand recover" -l json -d 'One JSON object'
complete -c postrider -n "__fish_postrider_using_subcommand recover" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand sendmail" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "add" -d 'Add a user; the password is asked for, or read with --password-stdin'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "passwd" -d 'Give a user another password; what it may do stays as it is'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "set" -d 'Change a user\'s limits; its password and what else it may do stay as they are'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "remove" -d 'Remove a user; a running relay refuses it within a second'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "list" -d 'List the users'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "failures" -d 'List whom failed logins keep out or make slow; with --lift, let them in again'
complete -c postrider -n "__fish_postrider_using_subcommand user; and not __fish_seen_subcommand_from add passwd set remove list failures help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l senders -d 'Allow only these senders: an address, or *@example.com; may be given several times' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l rate -d 'Take mail to at most so many recipients an hour: 100/h' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l quota -d 'Let at most so much of the user\'s mail be in the queue at once: 2GiB' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l atrn -d 'Let the user fetch the mail of this domain with ATRN; may be given several times' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l etrn -d 'Let the user kick all mail for this domain with ETRN; may be given several times' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l priority -d 'The priority of the user\'s mail that asks for none, -9 to 9 (MT-PRIORITY, RFC 6710); higher goes first' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l priority-max -d 'The highest priority that the user\'s mail may ask for; otherwise --priority, or 0' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l password-stdin -d 'Read the password from one line of stdin instead of asking for it'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l operator -d 'Allow the private commands: XADR, XSTA, XCIR and XGEN'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -l cram-md5 -d 'Allow CRAM-MD5; needs a secret in the users file that is as good as the password'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from passwd" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from passwd" -l password-stdin -d 'Read the password from one line of stdin instead of asking for it'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from passwd" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from set" -l rate -d 'So many recipients an hour at most: 100/h, or off' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from set" -l quota -d 'So much mail in the queue at most: 2GiB, or off' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from set" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from remove" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from list" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from list" -l json -d 'One JSON object, for programs'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from failures" -l lift -d 'Let these in again: a user\'s name, an address (with the networks round it), a network as listed, or all' -r
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from failures" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from failures" -l json -d 'One JSON object, for programs'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from failures" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a user; the password is asked for, or read with --password-stdin'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "passwd" -d 'Give a user another password; what it may do stays as it is'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "set" -d 'Change a user\'s limits; its password and what else it may do stay as they are'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove a user; a running relay refuses it within a second'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "list" -d 'List the users'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "failures" -d 'List whom failed logins keep out or make slow; with --lift, let them in again'
complete -c postrider -n "__fish_postrider_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and not __fish_seen_subcommand_from new show help" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and not __fish_seen_subcommand_from new show help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and not __fish_seen_subcommand_from new show help" -f -a "new" -d 'Make a key for a domain; print the record to publish and the lines for the config'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and not __fish_seen_subcommand_from new show help" -f -a "show" -d 'Show the keys of the config, their records, and whether DNS has them'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and not __fish_seen_subcommand_from new show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from new" -l selector -d 'The name of the key in DNS [default: the first of s1, s2, … that has no file]' -r
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from new" -l algorithm -d 'rsa, which everybody verifies, or ed25519, whose record is short; a domain may have both' -r -f -a "rsa\t''
ed25519\t''"
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from new" -l bits -d 'Bits of an RSA key' -r -f -a "2048\t''
3072\t''
4096\t''"
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from new" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from new" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from show" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from show" -l json -d 'One JSON object, for programs'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from help" -f -a "new" -d 'Make a key for a domain; print the record to publish and the lines for the config'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show the keys of the config, their records, and whether DNS has them'
complete -c postrider -n "__fish_postrider_using_subcommand dkim; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand top" -l interval -d 'Look again after so many seconds' -r
complete -c postrider -n "__fish_postrider_using_subcommand top" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand top" -l once -d 'Print one screen and end, as it is where nobody looks (a pipe, a file)'
complete -c postrider -n "__fish_postrider_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand health" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand health" -l ready -d 'Fail as well while no message could be committed (see [metrics] listen; without it: no room on the disk)'
complete -c postrider -n "__fish_postrider_using_subcommand health" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and not __fish_seen_subcommand_from show help" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and not __fish_seen_subcommand_from show help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and not __fish_seen_subcommand_from show help" -f -a "show" -d 'Print the report on one day\'s sessions as it would be sent, whether anybody asks for it or not'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and not __fish_seen_subcommand_from show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and __fish_seen_subcommand_from show" -l day -d 'The day in UTC, such as 2026-11-29 (default: today so far)' -r
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and __fish_seen_subcommand_from show" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print the report on one day\'s sessions as it would be sent, whether anybody asks for it or not'
complete -c postrider -n "__fish_postrider_using_subcommand tlsrpt; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand explain" -l user -d 'For mail that this user submitted: what [[source]] gives users of its own' -r
complete -c postrider -n "__fish_postrider_using_subcommand explain" -l from -d 'For mail of this author (its From): which DKIM keys sign it' -r
complete -c postrider -n "__fish_postrider_using_subcommand explain" -l config -d 'The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)' -r -F
complete -c postrider -n "__fish_postrider_using_subcommand explain" -l json -d 'A list of objects'
complete -c postrider -n "__fish_postrider_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "serve" -d 'Run the relay'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "check" -d 'Check config, certificate, users, database and DNS; print what was found'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "demo" -d 'Show the main job end to end on loopback: no config, no network'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "queue" -d 'Look at the queue and act on it, with or without the relay running'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "report" -d 'Say what went through since a time: accepted, delivered and how fast, deferred, bounced, and why'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "sql" -d 'SQL on the queue: a prompt, or -c \'SELECT …\''
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "backup" -d 'Copy the queue to a file, with or without the relay running'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "restore" -d 'Put a backup in the place of the queue, with the relay stopped'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "recover" -d 'Put what can be read of a damaged queue into a fresh one, with the relay stopped'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "sendmail" -d 'Hand a message to the relay, as sendmail does: for cron, PHP, git and all that call it'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "user" -d 'Say who may log in and send mail'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "dkim" -d 'Make keys that sign mail (DKIM), and show what DNS has of them'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "top" -d 'Watch the relay: lanes, connections, the rate, what was refused last (q ends it)'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "health" -d 'Say whether the relay answers on this machine, for the health check of a container'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "tlsrpt" -d 'Look at the daily reports on TLS to other domains (RFC 8460)'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "explain" -d 'Show how mail for an address would be routed, step by step'
complete -c postrider -n "__fish_postrider_using_subcommand help; and not __fish_seen_subcommand_from serve check demo queue report sql backup restore recover sendmail user dkim top health tlsrpt explain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "list" -d 'List what waits (or, with --state, what is finished), one line a recipient'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "find" -d 'Find mail by its Message-ID, Subject or tag, one line a recipient, waiting or finished'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "failures" -d 'Group what keeps mail from being delivered by the reason in the replies, the most frequent first'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "oldest" -d 'List what has waited longest, one line a message or a lane'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "show" -d 'Show one message: envelope, recipients, every attempt, its story, header'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "kick" -d 'Try now, whatever the retry schedule says'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "hold" -d 'Keep from being tried until released'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "release" -d 'Try held ones again'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "remove" -d 'Take out of the queue; nobody is told'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "bounce" -d 'Return to the sender now, with what was said last'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "suspend" -d 'Have what waits and what comes for a domain, of a user or with a tag wait until resumed'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "resume" -d 'Have what is suspended go on'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "suspensions" -d 'List what is suspended, and how much waits behind each'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "kicks" -d 'List the queue kicks, by ETRN or `queue kick`: who, when, how many recipients; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "log" -d 'List what operators changed: when, who, what, how many; the latest first'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "summary" -d 'Count what waits, in all and by domain'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "add" -d 'Add a user; the password is asked for, or read with --password-stdin'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "passwd" -d 'Give a user another password; what it may do stays as it is'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "set" -d 'Change a user\'s limits; its password and what else it may do stay as they are'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "remove" -d 'Remove a user; a running relay refuses it within a second'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "list" -d 'List the users'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "failures" -d 'List whom failed logins keep out or make slow; with --lift, let them in again'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from dkim" -f -a "new" -d 'Make a key for a domain; print the record to publish and the lines for the config'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from dkim" -f -a "show" -d 'Show the keys of the config, their records, and whether DNS has them'
complete -c postrider -n "__fish_postrider_using_subcommand help; and __fish_seen_subcommand_from tlsrpt" -f -a "show" -d 'Print the report on one day\'s sessions as it would be sent, whether anybody asks for it or not'
