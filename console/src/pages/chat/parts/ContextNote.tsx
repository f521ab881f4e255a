import { count } from "../../../i18n";
import { Table } from "../../../ui/Table";
import { FATES } from "../model/answer";
import type { ContextLedger, LedgerRow } from "../model/types";
import { say } from "../say";

/** Says what became of the tokens of a conversation that is longer than the model's context, message by message. */
export function ContextNote({ ledger }: { ledger: ContextLedger }) {
  const gone = (ledger.fates.dropped ?? 0) + (ledger.fates.forgotten ?? 0);
  const shown = FATES.filter((fate) => (ledger.fates[fate] ?? 0) > 0);
  return (
    <details class="context-note">
      <summary class="muted small">
        {say("context.summary", { original: count(ledger.original), gone: count(gone), mechanism: named(ledger.mechanism) })}
      </summary>
      {(ledger.adapter === "training" || ledger.adapter === "failed") && <p class="small">{say(`context.${ledger.adapter}`)}</p>}
      <div class="context-bar" aria-hidden="true">
        {shown.map((fate) => (
          <span key={fate} class={`context-${fate}`} style={{ flexGrow: ledger.fates[fate] ?? 0 }} title={say(`context.${fate}`)} />
        ))}
      </div>
      <Table
        label={say("context.title")}
        rows={ledger.rows}
        id={(row) => String(row.first)}
        columns={[
          { name: "messages", title: say("context.messages"), cell: numbers },
          { name: "role", title: say("context.role"), cell: (row) => spoken(row.role) },
          ...shown.map((fate) => ({
            name: fate,
            title: say(`context.${fate}`),
            cell: (row: LedgerRow) => (row.fates[fate] === undefined ? "" : count(row.fates[fate])),
            number: true,
          })),
        ]}
      />
    </details>
  );
}

const MECHANISMS = ["window", "drop", "compress", "retrieve", "quote", "adapter"] as const;

/** A mechanism in words; as it is called if this console does not know it. */
function named(mechanism: string): string {
  const known = MECHANISMS.find((one) => one === mechanism);
  return known ? say(`context.${known}`) : mechanism;
}

const ROLES = ["user", "assistant", "tool", "system", "developer", "several"] as const;

/** A role in words; as it is called if this console does not know it. */
function spoken(role: string): string {
  const known = ROLES.find((one) => one === role);
  return known ? say(`role.${known}`) : role;
}

/** The numbers of a row's messages, counted from 1. */
function numbers(row: LedgerRow): string {
  return row.first === row.last ? String(row.first + 1) : `${row.first + 1}–${row.last + 1}`;
}
