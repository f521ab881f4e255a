import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import { count, duration, t, texts, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command, Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { Action, actionOf, layerOf } from "./Action";
import { Entry, eventOf } from "./Entry";
import { en } from "./en";
import type { AuditEntry, Verification } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const STEP = 50;
const DECISIONS = ["block", "redact", "flag", "allow"] as const;
const DAY_S = 86_400;

/** The audit trail of the guard: filters, entries with their findings, and the verification of the chain. */
export function Decisions() {
  const [decision, setDecision] = useState("");
  const [since, setSince] = useState("");
  const [until, setUntil] = useState("");
  const [limit, setLimit] = useState(STEP);
  const [open, setOpen] = useState<AuditEntry | null>(null);
  const load = (signal: AbortSignal) => {
    const end = midnight(until);
    const query = { decision: decision || undefined, since: midnight(since), until: end === undefined ? undefined : end + DAY_S };
    return collect<AuditEntry>("/v1/audit/entries", limit, { query, signal });
  };
  const { data, error, loading, reload } = useLoad(load, [decision, since, until, limit]);
  const entries = data?.data ?? [];
  const filtered = decision !== "" || since !== "" || until !== "";
  if (data && entries.length === 0 && !filtered && error === null) {
    return (
      <Empty
        icon="list"
        title={say("entries.none")}
        text={say("entries.none.text")}
        commands={["deepwell up --policy standard", "deepwell serve --guard standard"]}
      />
    );
  }
  return (
    <>
      <Verify />
      <div class="row safety-filters">
        <SelectField
          label={say("filter.decision")}
          value={decision}
          onChange={setDecision}
          choices={[
            { value: "", label: say("filter.all") },
            ...DECISIONS.map((one) => ({ value: one, label: actionOf(one) })),
          ]}
        />
        <TextField label={say("filter.since")} type="date" value={since} onInput={setSince} />
        <TextField label={say("filter.until")} type="date" value={until} onInput={setUntil} />
        <div class="field">
          <Button icon="retry" busy={loading} label={t("action.refresh")} onClick={reload} />
        </div>
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && (
        <Table
          label={say("entries")}
          columns={columns()}
          rows={entries}
          id={(entry) => entry.id}
          onOpen={setOpen}
          selected={open?.id}
          empty={<p class="muted">{say("entries.filtered")}</p>}
        />
      )}
      {data?.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {open && <Entry entry={open} onClose={() => setOpen(null)} />}
    </>
  );
}

/** The beginning of a day of this place, in Unix seconds. */
function midnight(day: string): number | undefined {
  const at = new Date(`${day}T00:00:00`).getTime();
  return Number.isFinite(at) && at >= 0 ? at / 1000 : undefined;
}

function columns(): Column<AuditEntry>[] {
  return [
    { name: "at", title: say("column.at"), cell: (entry) => <span class="safety-time">{time(entry.at, true)}</span> },
    {
      name: "decision",
      title: say("column.decision"),
      cell: (entry) => (entry.decision ? <Action name={entry.decision} /> : <span class="badge">{eventOf(entry.event)}</span>),
    },
    { name: "layer", title: say("column.layer"), cell: (entry) => layerOf(entry.layer), wide: true },
    {
      name: "findings",
      title: say("column.findings"),
      cell: (entry) => <span class="safety-word">{[...new Set(entry.findings.map((one) => one.rule))].join(", ")}</span>,
    },
    { name: "model", title: say("column.model"), cell: (entry) => entry.model ?? "", wide: true },
    { name: "user", title: say("entry.user"), cell: (entry) => <span class="safety-word">{entry.user}</span>, wide: true },
  ];
}

function Verify() {
  const [busy, setBusy] = useState(false);
  const [told, setTold] = useState<Verification | null>(null);
  const [error, setError] = useState<unknown>(null);
  const verify = async () => {
    setBusy(true);
    setError(null);
    try {
      setTold(await api<Verification>("/v1/audit/verify", { method: "POST" }));
    } catch (failure) {
      setError(failure);
      setTold(null);
    }
    setBusy(false);
  };
  return (
    <div class="stack safety-verify">
      <div class="row">
        <Button icon="check" busy={busy} onClick={() => void verify()}>
          {say("verify")}
        </Button>
        <span role="status">
          {told?.holds && (
            <span class="safety-holds">
              {told.entries === 0
                ? say("verify.empty")
                : say("verify.holds", { count: count(told.entries), took: duration(told.seconds) })}
            </span>
          )}
        </span>
      </div>
      {error !== null && <Failure error={error} />}
      {told && !told.holds && (
        <div class="failure" role="alert">
          <div>
            <p>
              <b>{say("verify.broken")}</b>
            </p>
            <p>{told.error}</p>
            <p class="muted">{say("verify.fix")}</p>
            <Command text="deepwell audit verify" />
          </div>
        </div>
      )}
    </div>
  );
}
