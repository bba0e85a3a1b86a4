"""search_table.py CSV: the tables of docs/search.md from results/search.csv."""
import csv,sys
R=list(csv.DictReader(open(sys.argv[1]))); f=lambda x:100*float(x); M='UsefulSensors/moonshine-tiny'
S=f'1*likelihood + 1*likelihood:{M}'
N=[('random','chance'),('likelihood','`likelihood`'),('asr',"`asr`, nano's own reading"),(f'asr:{M}',f'`asr:{M}`'),(f'asr:{M}, likelihood','the same, ties broken by `likelihood`'),(f'likelihood:{M}',f'`likelihood:{M}`'),(S,'its sum with `likelihood`'),('speaker','`speaker`'),('1*likelihood + 2*speaker','`1*likelihood + 2*speaker`'),(S+' + 2*speaker','the sum of both likelihoods `+ 2*speaker`')]
N+=[(r['chooser'],'the judge itself (oracle)') for r in R if r['chooser'] not in {a for a,_ in N} and r['method']=='best_of_n' and r['n']=='1']
sg=lambda x:('−' if round(x,1)<0 else '+' if round(x,1)>0 else '')+'%.1f'%abs(x)
ch=lambda r:f"{sg(f(r['wer_change']))} ({sg(f(r['wer_change_low']))} to {sg(f(r['wer_change_high']))})"
def row(c,n): return next(r for r in R if r['method']=='best_of_n' and r['chooser']==c and int(r['n'])==n)
for c,label in N:
    r=row(c,32); print(f"| {label} | "+' | '.join('%.1f %%'%f(row(c,n)['wer']) for n in(1,4,8,16))+f" | {f(r['wer']):.1f} % ({f(r['wer_low']):.1f} to {f(r['wer_high']):.1f}) | {ch(r) if c!='random' else ''} | {float(r['similarity']):.3f} |")
print()
for r in R:
    if r['method']!='best_of_n': print(f"| {r['method']} {r['chooser']} | {f(r['wer']):.1f} % ({f(r['wer_low']):.1f} to {f(r['wer_high']):.1f}) | {ch(r)} | {float(r['similarity']):.3f} |")
print('cost',{(c,n):float(row(c,n)['seconds'])/float(row('random',1)['seconds']) for c,_ in N for n in(16,32)})
