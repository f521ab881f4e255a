import { count, texts, time } from "../../i18n";
import { Dialog } from "../../ui/Dialog";
import { type Column, Table } from "../../ui/Table";
import { Action, layerOf } from "./Action";
import { en } from "./en";
import type { AuditEntry, AuditFinding } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const EVENTS = ["prune", "erase", "export", "policy", "gap", "unreadable"] as const;

/** What happened, in words, for entries that are no decision. */
export function eventOf(name: string): string {
  const known = EVENTS.find((one) => one === name);
  return known === undefined ? name : say(`event.${known}`);
}

/** One entry of the audit trail with its findings. */
export function Entry({ entry, onClose }: { entry: AuditEntry; onClose: () => void }) {
  const facts: [string, preact.ComponentChildren][] = [
    [say("column.at"), time(entry.at, true)],
    [say("column.decision"), entry.decision ? <Action name={entry.decision} /> : eventOf(entry.event)],
    [say("column.layer"), layerOf(entry.layer)],
    [say("column.route"), entry.route],
    [say("column.model"), entry.model],
    [say("entry.user"), entry.user],
    [say("entry.request"), entry.request_id],
    [say("entry.policy"), entry.policy_hash && <code>{entry.policy_hash}</code>],
    [say("entry.hash"), <code>{entry.hash}</code>],
  ];
  return (
    <Dialog wide title={say("entry.title", { id: entry.id })} onClose={onClose}>
      <div class="stack">
        <dl class="safety-facts">
          {facts
            .filter(([, value]) => value)
            .map(([name, value]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>
            ))}
        </dl>
        <section>
          <h3>{say("entry.findings")}</h3>
          <Table
            label={say("entry.findings")}
            columns={columns()}
            rows={entry.findings.map((finding, place) => ({ ...finding, place }))}
            id={(finding) => String(finding.place)}
            empty={<p class="muted">{say("entry.none")}</p>}
          />
          {entry.findings.length > 0 && <p class="muted small">{say("entry.text")}</p>}
        </section>
      </div>
    </Dialog>
  );
}

function columns(): Column<AuditFinding & { place: number }>[] {
  return [
    { name: "rule", title: say("column.rule"), cell: (one) => <code class="safety-word">{one.rule}</code> },
    { name: "category", title: say("column.category"), cell: (one) => one.category ?? "" },
    { name: "action", title: say("column.action"), cell: (one) => one.action && <Action name={one.action} /> },
    { name: "span", title: say("column.span"), cell: (one) => one.span.map((place) => count(place)).join("–"), number: true },
    {
      name: "score",
      title: say("column.score"),
      cell: (one) => (one.score === null ? "" : count(one.score, 2)),
      number: true,
      wide: true,
    },
  ];
}
