import { Table } from "../../ui/Table";
import { measuresOf, saidBy } from "./gates";
import { say } from "./say";
import type { Gate, GateReport } from "./types";
import { gateOf } from "./words";

interface Row {
  id: string;
  gate: Gate;
  /** Whether it is the first row of its gate. */
  first: boolean;
  measure: string;
  number: string;
  limit: string;
  held: boolean | null;
}

/** The verdict of all gates together, or that none has seen the version. */
export function Verdict({ report }: { report: GateReport | null }) {
  if (report === null) return <span class="badge">{say("gates.none")}</span>;
  return <span class={`badge ${report.passed ? "good" : "bad"}`}>{say(report.passed ? "gates.passed" : "gates.refused")}</span>;
}

/** Each gate of a report: what was measured, the number, its limit, and whether it passed. */
export function Gates({ report, label }: { report: GateReport; label: string }) {
  return (
    <Table
      label={label}
      rows={report.gates.flatMap((gate, place) => rowsOf(gate, place))}
      id={(row) => row.id}
      columns={[
        {
          name: "gate",
          title: say("column.gate"),
          cell: (row) =>
            row.first && (
              <>
                <b>{gateOf(row.gate.name)}</b>{" "}
                <span class={`badge ${row.gate.passed ? "good" : "bad"}`}>
                  {say(row.gate.passed ? "gates.passed" : "gates.refused")}
                </span>
              </>
            ),
        },
        { name: "measure", title: say("column.measure"), cell: (row) => <span class="rollouts-words">{row.measure}</span> },
        {
          name: "number",
          title: say("column.number"),
          cell: (row) => (
            <>
              <span class={row.held === false ? "rollouts-broken" : undefined}>{row.number}</span>
              <span class="rollouts-limit">{row.limit}</span>
            </>
          ),
          number: true,
        },
        { name: "limit", title: say("column.limit"), cell: (row) => row.limit, number: true, wide: true },
      ]}
    />
  );
}

function rowsOf(gate: Gate, place: number): Row[] {
  const base = { gate, first: true, number: "", limit: "", held: null };
  const measures = measuresOf(gate);
  if (measures.length === 0) return [{ ...base, id: `${place}`, measure: saidBy(gate) }];
  return measures.map((one, at) => ({
    ...base,
    id: `${place} ${at}`,
    first: at === 0,
    measure: one.name,
    number: one.number,
    limit: one.limit,
    held: one.held,
  }));
}
