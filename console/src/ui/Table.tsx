import type { ComponentChildren } from "preact";
import { t } from "../i18n";

export interface Column<T> {
  name: string;
  /** Heading; empty headings still have a name for screen readers. */
  title: string;
  cell: (row: T) => ComponentChildren;
  /** Numbers stand at the right, in figures of one width. */
  number?: boolean;
  /** Left out where the page is narrow. */
  wide?: boolean;
}

export interface TableProps<T> {
  /** What the table lists, for screen readers. */
  label: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  id: (row: T) => string;
  /** Opens a row; the first column becomes a button. */
  onOpen?: (row: T) => void;
  selected?: string;
  empty?: ComponentChildren;
}

export function Table<T>({ label, columns, rows, id, onOpen, selected, empty }: TableProps<T>) {
  if (rows.length === 0) return <>{empty ?? <p class="muted">{t("table.empty")}</p>}</>;
  const classOf = (column: Column<T>) => [column.number && "number", column.wide && "wide-only"].filter(Boolean).join(" ");
  return (
    <div class="table-frame" tabIndex={0} role="region" aria-label={label}>
      <table class="table">
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.name} scope="col" class={classOf(column)}>
                {column.title || <span class="unseen">{column.name}</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)} class={selected === id(row) ? "selected" : undefined}>
              {columns.map((column, place) => (
                <td key={column.name} class={classOf(column)}>
                  {onOpen && place === 0 ? (
                    <button type="button" class="cell-open" onClick={() => onOpen(row)}>
                      {column.cell(row)}
                    </button>
                  ) : (
                    column.cell(row)
                  )}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
