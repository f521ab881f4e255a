import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface Common {
  label: string;
  hint?: string;
  error?: string;
  disabled?: boolean;
}

interface Wiring {
  id: string;
  "aria-describedby": string | undefined;
  "aria-invalid": boolean | undefined;
}

/** A label, an input, and below it a hint or what is wrong. */
export function Field({ label, hint, error, children }: Common & { children: (wiring: Wiring) => ComponentChildren }) {
  const id = useId();
  const about = error || hint ? `${id}-about` : undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, "aria-describedby": about, "aria-invalid": error ? true : undefined })}
      {about && (
        <p id={about} class={error ? "field-error" : "field-hint"}>
          {error || hint}
        </p>
      )}
    </div>
  );
}

export interface TextFieldProps extends Common {
  value: string;
  onInput: (value: string) => void;
  type?: "text" | "password" | "number" | "search" | "date";
  placeholder?: string;
  rows?: number;
  mono?: boolean;
  min?: number;
  max?: number;
  step?: number;
  autofocus?: boolean;
}

export function TextField(props: TextFieldProps) {
  const { value, onInput, rows, mono, type = "text" } = props;
  const input = (event: { currentTarget: { value: string } }) => onInput(event.currentTarget.value);
  return (
    <Field {...props}>
      {(wiring) =>
        rows ? (
          <textarea
            {...wiring}
            class={mono ? "mono" : undefined}
            rows={rows}
            value={value}
            placeholder={props.placeholder}
            disabled={props.disabled}
            spellcheck={!mono}
            onInput={input}
          />
        ) : (
          <input
            {...wiring}
            class={mono ? "mono" : undefined}
            type={type as "text"}
            value={value}
            placeholder={props.placeholder}
            disabled={props.disabled}
            min={props.min}
            max={props.max}
            step={props.step}
            autofocus={props.autofocus}
            autocomplete="off"
            onInput={input}
          />
        )
      }
    </Field>
  );
}

export interface Choice<T extends string> {
  value: T;
  label: string;
  disabled?: boolean;
}

export interface SelectFieldProps<T extends string> extends Common {
  value: T;
  choices: readonly Choice<T>[];
  onChange: (value: T) => void;
}

export function SelectField<T extends string>(props: SelectFieldProps<T>) {
  return (
    <Field {...props}>
      {(wiring) => (
        <select
          {...wiring}
          value={props.value}
          disabled={props.disabled}
          onChange={(event) => props.onChange(event.currentTarget.value as T)}
        >
          {props.choices.map((one) => (
            <option key={one.value} value={one.value} disabled={one.disabled} selected={one.value === props.value}>
              {one.label}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

export function CheckField(props: Common & { value: boolean; onChange: (value: boolean) => void }) {
  const id = useId();
  return (
    <div class="field check">
      <input
        id={id}
        type="checkbox"
        checked={props.value}
        disabled={props.disabled}
        aria-describedby={props.hint ? `${id}-about` : undefined}
        onChange={(event) => props.onChange(event.currentTarget.checked)}
      />
      <label for={id}>{props.label}</label>
      {props.hint && (
        <p id={`${id}-about`} class="field-hint">
          {props.hint}
        </p>
      )}
    </div>
  );
}
